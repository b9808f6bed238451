"""Text from data, made safe for figures: plotly reads titles, labels and hovers as HTML."""

import html
import textwrap
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
    """A text that figures show as it is: no markup, and no formula between dollar signs.

    Args:
        text: Text from data.
    """
    # Where a page has MathJax, plotly typesets what stands between two dollars.
    return html.escape(text, quote=False).replace("$", "&#36;")


def visible(token: str) -> str:
    """A token for an axis or a hover: every character can be seen, and none is markup.

    White space has symbols. Characters without a shape have their code point, such as U+200B, and
    so have spaces that are not the usual one, such as U+00A0.

    Args:
        token: Token from data.
    """
    return plain("".join(map(_with_shape, token)))


def spelled(token: str) -> str:
    """A token as part of a name: single marks and white space are written out.

    The result is not escaped: `plain` makes it safe to show.

    Args:
        token: Token from data.

    Example:
        >>> [spelled(token) for token in (" the", ",", "\\n\\n", " \u2014")]
        ['the', 'comma', '\u21b5\u21b5', 'em-dash']
    """
    word = token.strip()
    if not word:
        return "".join(map(_with_shape, token))
    category = unicodedata.category(word[0])
    is_mark = category.startswith("P") or category in ("Sc", "Sk", "Sm")
    if len(word) > 1 or not is_mark:
        return word
    return _MARKS.get(word) or unicodedata.name(word, word).lower().replace(" ", "-")


def shortened(text: str, width: int) -> str:
    """A text of at most ``width`` characters; one that was cut ends with an ellipsis.

    Shorten before escaping, so that no entity is cut in two.

    Args:
        text: Text from data, not yet escaped.
        width: Most characters that the result has.
    """
    return text if len(text) <= width else text[: max(0, width - 1)] + "\u2026"


def wrapped(text: str, width: int) -> str:
    """A text in lines, safe to show; titles and legends of plotly do not wrap by themselves.

    Args:
        text: Text from data, not yet escaped.
        width: Most characters in a line.
    """
    # Each line is escaped after wrapping, so that no entity is cut in two.
    return "<br>".join(map(plain, textwrap.wrap(text, width)))


def _with_shape(character: str) -> str:
    """A character, or a symbol for one that cannot be seen."""
    if character in _SPACES:
        return _SPACES[character]
    if unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp", "Zs"):
        return f"U+{ord(character):04X}"
    return character


def code_name(code: int, name: str, *, width: int | None = None) -> str:
    """The number and the name of a code, safe to show.

    Args:
        code: Number of the code; a negative one means that there is no code.
        name: What the code means, or "".
        width: Most characters of the name; None: the whole name.
    """
    if code < 0:
        return "none"
    short = name if width is None else shortened(name, width)
    return f"{code} {plain(short)}".strip()
