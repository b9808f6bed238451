"""Text from data, made safe for figures: plotly reads titles, labels and hovers as HTML."""

import html


def plain(text: str) -> str:
    """A text in which nothing is read as markup, nor as a formula between dollar signs.

    Args:
        text: From data.
    """
    return html.escape(text, quote=False).replace("$", "&#36;")


def visible(token: str) -> str:
    """A token on an axis or in a hover: white space shows, and nothing is read as markup.

    Args:
        token: From data.
    """
    shown = token.replace(" ", "\u2423").replace("\n", "\u21b5").replace("\t", "\u21e5")
    return plain(shown)


def shortened(text: str, width: int) -> str:
    """A text of at most so many characters, an ellipsis at the end of one that was cut.

    Shorten before escaping, so that no entity is cut in two.

    Args:
        text: From data, not yet escaped.
        width: Characters that may stay.
    """
    return text if len(text) <= width else text[: max(0, width - 1)] + "\u2026"


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
