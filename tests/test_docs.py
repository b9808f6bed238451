"""The site: its code runs, its links lead somewhere, nothing public is missing, and it builds."""

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

import clvq_lens as cl

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# What the build copies into the site is looked at where it lies.
COPIED = ("_build", "tutorials", "measurements")
PAGES = [
    *sorted(page for page in DOCS.rglob("*.md") if page.relative_to(DOCS).parts[0] not in COPIED),
    DOCS / "tutorials" / "index.md",
    DOCS / "measurements" / "index.md",
]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def shown(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The code of a page in one language."""
    return [code for info, code in FENCE.findall(page.read_text()) if info == language]


# ---- code ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=shown)
def test_python_blocks_of_a_page_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # some blocks write files
    session: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), session)


# ---- links ---------------------------------------------------------------------------------------


def slug(title: str) -> str:
    """The address of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")


def anchors(page: Path) -> set[str]:
    """Addresses of the headings of a page."""
    prose = FENCE.sub("", page.read_text())
    return {slug(title) for title in re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=shown)
def test_links_of_a_page_lead_somewhere(page):
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        address, _, anchor = link.partition("#")
        place = (page.parent / address).resolve() if address else page
        assert place.exists(), link
        assert not anchor or anchor in anchors(place), link


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_every_page_is_reached_from_the_index(page):
    reached, waiting = set(), [DOCS / "index.md"]
    while waiting:
        current = waiting.pop()
        if current in reached or not current.exists():
            continue
        reached.add(current)
        for line in "".join(blocks(current, "{toctree}")).splitlines():
            name = re.sub(r"^.* <(.*)>$", r"\1", line)
            waiting.append((current.parent / f"{name}.md").resolve())
    assert page in reached


# ---- completeness --------------------------------------------------------------------------------


def described() -> set[str]:
    """Every name that a directive of autodoc puts into the reference."""
    text = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    return set(re.findall(r"^\.\. auto\w+:: clvq_lens\.(\S+)$", text, flags=re.MULTILINE))


def public_names() -> list[str]:
    """What is listed by dir(clvq_lens) and its public modules."""
    names = []
    for name in sorted(cl.__all__):
        value = getattr(cl, name)
        if name == "errors":
            names.append(name)  # as a whole: its members are described with it
        elif isinstance(value, ModuleType):
            names += [f"{name}.{member}" for member in sorted(value.__all__)]
        elif not name.startswith("__"):
            names.append(name)
    return names


def test_every_public_name_is_in_the_reference():
    assert set(public_names()) - described() == set()


# What the gallery calls for functions of clvq_lens.plots that verbs and results draw with.
DRAWN_BY = {
    "plot_ablations": "ablation_sweep(",
    "plot_ablations_by_position": "by_position=True",
    "plot_alignment": "alignment(",
    "plot_attribution": "attribution(",
    "plot_causal_flow": "causal_flow(",
    "plot_codebook": "lens.plot_codebook(",
    "plot_collapse": "collapse(",
    "plot_comparison": "compare(",
    "plot_concordance": "judges.agreement(",
    "plot_detection": "detection(",
    "plot_faithfulness": "faithfulness(",
    "plot_flow": "flow.plot(",
    "plot_history": "history.plot(",
    "plot_norms": "norms.plot(",
    "plot_patching": "concept_patching(",
    "plot_probing": "probing(",
    "plot_salience": "salience(",
    "plot_sentence": "sentence_flow(",
    "plot_stability": "stability.plot(",
    "plot_token_strip": "lens.encode(held_out[0], **quiet).plot(",
}


def test_every_figure_is_in_the_gallery():
    code = "".join(blocks(DOCS / "gallery.md", "{code-cell} ipython3"))
    for name in cl.plots.__all__:
        if name.startswith("plot_"):
            assert DRAWN_BY.get(name, f"{name}(") in code, name


# ---- the build -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as ``make docs`` builds it; or what that has built just now."""
    if "CLVQ_SITE" in os.environ:
        return ROOT / os.environ["CLVQ_SITE"]
    missing = [name for name in ("sphinx", "furo", "myst_nb") if not importlib.util.find_spec(name)]
    if missing:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs {', '.join(missing)}; run: make .venv/docs")
        pytest.skip(f"{', '.join(missing)} not installed; run: make .venv/docs")
    out = tmp_path_factory.mktemp("site") / "html"  # what was executed is written beside it
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
    built = subprocess.run([*command, DOCS, out], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return out


class Loaded(HTMLParser):
    """Addresses that a page loads when it is opened, and not only leads to."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in {"script", "img", "iframe", "source"}:
            self.addresses.append(given.get("src") or "")
        elif tag == "link" and given.get("rel") in {"stylesheet", "icon", "preload"}:
            self.addresses.append(given.get("href") or "")


@pytest.mark.slow
def test_the_site_asks_nothing_of_the_network(site):
    for page in site.rglob("*.html"):
        loaded = Loaded()
        loaded.feed(page.read_text())
        for address in loaded.addresses:
            assert not address.startswith(("http:", "https:", "//")), (page, address)
            if address:
                place = address.partition("?")[0]
                assert (page.parent / place).exists(), (page, address)


@pytest.mark.slow
def test_figures_and_formulae_are_in_the_site(site):
    gallery = (site / "gallery.html").read_text()
    assert gallery.count('class="plotly-figure"') >= len(DRAWN_BY)
    assert "plotly.min.js" in gallery
    quickstart = (site / "tutorials" / "01_quickstart.html").read_text()
    assert quickstart.count('class="plotly-figure"') == 5
    assert "<math" in (site / "explanations" / "method.html").read_text()
    assert "plotly.min.js" not in (site / "index.html").read_text()


@pytest.mark.slow
def test_shapes_in_the_reference_are_as_they_are_written(site):
    text = re.sub(r"<[^>]+>", "", (site / "reference" / "lens.html").read_text())
    text = text.replace("&#39;", "'").replace("&quot;", '"')
    assert "Float[Tensor, 'b pos d" in text
    assert "jaxtyping" not in text
