"""Pages that live elsewhere in the repository: notebooks and measurements are copied in.

Both are read on their own, too, where they lie, so their places stay. A link to them in a page is
turned into one to the copy.
"""

import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

REPOSITORY = Path(__file__).parents[2]
# From a folder of the repository to a folder of the site, and what is copied.
GATHERED = {
    "demos": ("tutorials", ("*.ipynb", "*.png")),
    "benchmarks/results": ("measurements", ("*.md", "figures/*.png")),
}


def gather(app: Sphinx) -> None:
    """Copies what lies elsewhere; a file that has not changed keeps its date, and is not read."""
    for folder, (place, patterns) in GATHERED.items():
        for pattern in patterns:
            for path in sorted((REPOSITORY / folder).glob(pattern)):
                copy = Path(app.srcdir) / place / path.relative_to(REPOSITORY / folder)
                copy.parent.mkdir(exist_ok=True)
                if not copy.exists() or copy.read_bytes() != path.read_bytes():
                    shutil.copyfile(path, copy)


def lead_to_copies(app: Sphinx, page: str, source: list[str]) -> None:
    """Links to what was copied lead to the copy."""
    up = "../" * (page.count("/") + 1)
    for folder, (place, _) in GATHERED.items():
        source[0] = source[0].replace(f"]({up}{folder}/", f"](/{place}/")


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("builder-inited", gather)
    app.connect("source-read", lead_to_copies)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
