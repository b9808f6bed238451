"""How results show themselves: one line in a terminal, that line and a small table in Jupyter."""

from html import escape

import pandas as pd

_MOST_ROWS = 10  # of a table in a notebook: the rest is what .frame() is for


class Shown:
    """A result that says in one line what it is.

    A subclass gives `headline`, and `preview` if it has a table worth seeing at once.
    """

    def headline(self) -> str:
        """What it is, how large, and its main number: one line."""
        raise NotImplementedError

    def preview(self) -> pd.DataFrame | None:
        """The table of which a notebook shows the beginning; None: the line alone."""
        return None

    def __repr__(self) -> str:
        # Text from data may hold line breaks; a repr is one line all the same.
        return f"{type(self).__name__}({' '.join(self.headline().split())})"

    def _repr_html_(self) -> str:
        html = f"<p><b>{type(self).__name__}</b>: {escape(self.headline())}</p>"
        table = self.preview()
        if table is None:
            return html
        html += table.head(_MOST_ROWS).to_html(
            index=False, escape=True, float_format="{:.4g}".format
        )
        if len(table) > _MOST_ROWS:
            html += f"<p>{len(table) - _MOST_ROWS:,} more rows in <code>.frame()</code></p>"
        return html
