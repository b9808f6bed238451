"""Text from data, made safe for figures: plotly reads titles, labels and hovers as HTML."""

import html
import unicodedata

_SPACES = {" ": "\u2423", "\n": "\u21b5", "\t": "\u21e5"}
# What single marks are called, where the Unicode name is not what people say.
_MARKS = {
    ".": "full-stop", ",": "comma", "'": "apostrophe", '"': "quote", "-": "hyphen",
    "(": "open-paren", ")": "close-paren", "[": "open-bracket", "]": "close-bracket",
    "{": "open-brace", "}": "close-brace", "/": "slash", "\\": "backslash", "_": "underscore",
    "\u2018": "open-quote", "\u2019": "close-quote", "\u201c": "open-quotes",
    "\u201d": "close-quotes", "\u2013": "en-dash", "\u2014": "em-dash", "\u2026": "ellipsis",
    "!": "exclamation", "?": "question", "$": "dollar", "%": "percent", "&": "ampersand",
    "*": "asterisk", "<": "less-than", ">": "greater-than", "=": "equals", "+": "plus",
    "|": "bar", "@": "at-sign", "#": "hash",
}  # fmt: skip


def plain(text: str) -> str:
    """A text in which nothing is read as markup, nor as a formula between dollar signs.

    Args:
        text: From data.
    """
    return html.escape(text, quote=False).replace("$", "&#36;")


def visible(token: str) -> str:
    """A token on an axis or in a hover: white space shows, and nothing is read as markup.

    So do characters that have no shape of their own, as in U+200B.

    Args:
        token: From data.
    """
    return plain("".join(map(_seen, token)))


def spelled(token: str) -> str:
    """A token as part of a name: single marks and white space are written out.

    Not escaped: `plain` makes it safe to show.

    Args:
        token: From data.

    Example:
        >>> [spelled(token) for token in (" the", ",", "\\n\\n", " \u2014")]
        ['the', 'comma', '\u21b5\u21b5', 'em-dash']
    """
    word = token.strip()
    if not word:
        return "".join(map(_seen, token))
    category = unicodedata.category(word[0])
    if len(word) > 1 or not (category.startswith("P") or category in ("Sc", "Sk", "Sm")):
        return word
    return _MARKS.get(word) or unicodedata.name(word, word).lower().replace(" ", "-")


def shortened(text: str, width: int) -> str:
    """A text of at most so many characters, an ellipsis at the end of one that was cut.

    Shorten before escaping, so that no entity is cut in two.

    Args:
        text: From data, not yet escaped.
        width: Characters that may stay.
    """
    return text if len(text) <= width else text[: max(0, width - 1)] + "\u2026"


def _seen(character: str) -> str:
    """A character, or what stands for one that cannot be seen."""
    if character in _SPACES:
        return _SPACES[character]
    if unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp"):
        return f"U+{ord(character):04X}"
    return character


def code_name(code: int, label: str, *, width: int | None = None) -> str:
    """A code and what it means, safe to show.

    Args:
        code: Its number; below zero: no code.
        label: What it means, or "".
        width: Characters of the label that may stay; None: all.
    """
    if code < 0:
        return "none"
    return f"{code} {plain(label if width is None else shortened(label, width))}".strip()
