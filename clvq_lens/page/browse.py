"""The report inside a notebook: the same page, in a frame, without a server."""

import os
from collections.abc import Mapping
from html import escape
from pathlib import Path
from urllib.parse import quote

from clvq_lens.arguments import check_count
from clvq_lens.concepts.table import ConceptTable
from clvq_lens.config import LongTexts
from clvq_lens.data.documents import Data
from clvq_lens.data.token_labels import TokenLabels
from clvq_lens.evaluation.evaluation import Evaluation
from clvq_lens.flow.concept_flow import ConceptFlow
from clvq_lens.host.attachment import Attached, ready
from clvq_lens.page.contents import gather
from clvq_lens.page.payload import payload
from clvq_lens.page.write import check_path, compressed, render, write_page
from clvq_lens.showing import Shown, bytes_in_words
from clvq_lens.training.history import History

# An origin of its own: no script of the page reaches the notebook, and figures can be saved. A page
# in a file gets one from the notebook's server; without a server its links would do nothing in one.
_SANDBOX = "allow-scripts allow-downloads"


class BrowsedPage(Shown):
    """A report that a notebook shows in a frame; elsewhere it is a line of text.

    Args:
        name: Name of the quantizer that it is about.
        frame: Attributes that say what the frame shows: the page itself, packed, as ``srcdoc``; or
            its address, as ``src``.
        size_bytes: Size of the page.
        height: Height of the frame, in pixels.
        path: Path of its file; None: the notebook holds it.
    """

    def __init__(
        self,
        name: str,
        frame: Mapping[str, str],
        *,
        size_bytes: int,
        height: int,
        path: Path | None,
    ) -> None:
        self.name, self.path = name, path
        self.size_bytes, self.height = size_bytes, height
        self._frame = dict(frame)

    def headline(self) -> str:
        """What it is about, its size, and where it is kept."""
        if self.path is not None:
            return f"the report of {self.name!r} in {self.path}, {bytes_in_words(self.size_bytes)}"
        size = bytes_in_words(len(self._frame["srcdoc"]))
        return (
            f"the report of {self.name!r}, {size} of this notebook once it is saved; "
            f"path='report.html' keeps it in a file instead"
        )

    def _repr_html_(self) -> str:
        attributes = {
            **self._frame,
            "title": f"Report of {self.name}",
            "width": "100%",
            "height": str(self.height),
            "style": "border: 1px solid #8884; border-radius: 4px;",
        }
        written = []
        for name, value in attributes.items():
            written.append(f'{name}="{escape(value)}"')
        caption = escape(self.headline())
        return f"<iframe {' '.join(written)}></iframe><p><small>{caption}</small></p>"


def browse(
    lens: Attached,
    data: Data,
    path: str | Path | None = None,
    *,
    token_labels: TokenLabels | None = None,
    n_examples: int = 20,
    n_texts: int = 100,
    concepts: ConceptTable | None = None,
    evaluation: Evaluation | None = None,
    flow: ConceptFlow | None = None,
    history: History | None = None,
    long_texts: LongTexts = "split",
    height: int = 800,
    progress: bool = True,
) -> BrowsedPage:
    """The page of `report` inside a notebook, without a server and without a network.

    The notebook holds the page, which makes its file larger by about two megabytes; the line below
    the page says how much. With a path the page is a file beside the notebook, which stays small.
    JupyterLab and Jupyter Notebook show it all the same. VS Code and Colab show no files of theirs,
    and leave the frame empty.

    Args:
        lens: A fitted lens.
        data: Texts or tokens that the lens was not fitted on, as for `clvq_lens.Lens.fit`.
        path: Path of an .html file for the page, in the folder of the notebook or below it; None:
            the notebook holds the page.
        token_labels: A known label of every real token, as for `clvq_lens.Lens.concepts`.
        n_examples: Example contexts of each kind for each code.
        n_texts: Texts that can be read on the page, the first ones.
        concepts: The concept table of these data, if already computed, such as one with names.
        evaluation: What `clvq_lens.Lens.evaluate` gave for these data, if already computed.
        flow: What `clvq_lens.concept_flow` gave for these data, if already computed.
        history: What `fit` returned, to show how the fit went.
        long_texts: What to do with a text beyond the context.
        height: Height of the page in the notebook, in pixels.
        progress: Whether to show progress bars.

    Returns:
        What a notebook shows as the page, and a terminal as a line.

    Raises:
        NotFittedError: If a quantizer of the model has not been fitted.
        ConfigError: If an argument has an impossible value, or is of other quantizers.
        PathError: If nothing can be written at the path.
    """
    attachment = ready(lens)
    check_count("height", height)
    if path is not None:
        path = check_path(path)  # before anything that takes long
    contents = gather(
        attachment,
        data,
        token_labels=token_labels,
        n_examples=n_examples,
        n_texts=n_texts,
        concepts=concepts,
        evaluation=evaluation,
        flow=flow,
        history=history,
        long_texts=long_texts,
        progress=progress,
    )
    if path is not None:
        path = write_page(path, contents)
        size_bytes, frame = path.stat().st_size, {"src": _address(path)}
    else:
        page = render(payload(contents))
        size_bytes, frame = len(page.encode()), {"srcdoc": compressed(page), "sandbox": _SANDBOX}
    return BrowsedPage(attachment.name, frame, size_bytes=size_bytes, height=height, path=path)


def _address(path: Path) -> str:
    """Address of a file as the notebook has it, which runs in the working folder."""
    return quote(Path(os.path.relpath(path)).as_posix())
