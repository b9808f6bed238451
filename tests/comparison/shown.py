"""What every result has to do when it is shown."""

HOSTILE = "<script>alert(1)</script>\n<b>$x$</b> &"


def assert_harmless(result: object) -> None:
    """A result that holds `HOSTILE` shows itself in one line, and in HTML without markup."""
    assert "\n" not in repr(result)
    html = result._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script" not in html
    assert "<b>$x$" not in html
