"""`lens.browse`: the report in a frame of a notebook."""

import base64
import gzip
import re
from html import unescape
from pathlib import Path

import pytest

import clvq_lens as cl
from clvq_lens.errors import ConfigError, NotFittedError, PathError
from clvq_lens.page.browse import _SANDBOX, BrowsedPage
from clvq_lens.page.payload import payload
from clvq_lens.page.write import compressed, render
from tests.page.conftest import N_CODES, wait_until

QUIET = {"n_examples": 2, "progress": False}


def unpacked(html: str) -> str:
    """The page that the frame of a notebook unpacks."""
    frame = unescape(re.search(r'srcdoc="([^"]*)"', html)[1])
    packed = re.search(r'id="packed">(.*?)<', frame)
    return gzip.decompress(base64.b64decode(packed[1])).decode()


def test_a_notebook_holds_the_page_that_report_writes(toy_fit, tmp_path):
    texts = cl.toy.generate(6, seed=6)
    page = toy_fit.browse(texts, n_texts=5, **QUIET)
    written = toy_fit.report(texts, tmp_path / "report.html", n_texts=5, **QUIET)
    html = page._repr_html_()
    assert unpacked(html) == written.read_text()
    assert page.size_bytes == written.stat().st_size
    assert page._repr_html_() == toy_fit.browse(texts, n_texts=5, **QUIET)._repr_html_()


def test_what_a_notebook_grows_by_is_said_and_is_a_part_of_the_page(toy_fit):
    page = toy_fit.browse(cl.toy.generate(6, seed=6), height=500, **QUIET)
    html = page._repr_html_()
    assert len(html) < page.size_bytes / 2
    said = f"{len(html) / 2**20:.2f} MB of this notebook once it is saved"
    assert said in html
    assert repr(page).startswith(f"BrowsedPage(the report of '1-3', {said}; path=")
    assert 'height="500"' in html
    assert page.path is None
    assert f'sandbox="{_SANDBOX}"' in html


def test_with_a_path_the_notebook_stays_small(toy_fit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b").mkdir()
    page = toy_fit.browse(cl.toy.generate(6, seed=6), "a b/report.html", **QUIET)
    html = page._repr_html_()
    assert len(html) < 1_000
    assert 'src="a%20b/report.html"' in html
    assert "srcdoc" not in html
    assert "sandbox" not in html
    assert (tmp_path / "a b" / "report.html").stat().st_size == page.size_bytes
    assert "in a b/report.html" in repr(page)
    elsewhere = toy_fit.browse(cl.toy.generate(6, seed=6), tmp_path / "r.html", **QUIET)
    assert 'src="r.html"' in elsewhere._repr_html_()


def test_what_was_computed_before_is_on_the_page(toy_fit, monkeypatch):
    texts = cl.toy.generate(6, seed=6)
    evaluation = toy_fit.evaluate(texts, metrics=["fvu"], progress=False)
    flow = cl.concept_flow(toy_fit.model, texts, progress=False)
    table = toy_fit.concepts(texts, progress=False).named(lambda examples: "named by me")
    for verb in ("evaluate", "concept_flow"):
        monkeypatch.setattr(f"clvq_lens.page.contents.{verb}", None)
    parts = {"concepts": table, "evaluation": evaluation, "flow": flow}
    assert "named by me" in unpacked(toy_fit.browse(texts, **parts, **QUIET)._repr_html_())


def test_what_cannot_be_shown_is_refused_before_anything_is_computed(toy_fit, model, tmp_path):
    with pytest.raises(ConfigError, match="height is 0"):
        toy_fit.browse(["no such words"], height=0)
    with pytest.raises(PathError, match="is a folder"):
        toy_fit.browse(["no such words"], tmp_path)
    with pytest.raises(NotFittedError):
        model.add_clvq(1, 2).browse(["a"])


# ---- in a browser --------------------------------------------------------------------------------

# What VS Code puts around the output of a cell; the frame inherits it.
VS_CODE = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src https: data:; font-src https:; connect-src https:; child-src https: data:;"
)


@pytest.fixture(scope="module")
def in_a_notebook(contents) -> str:
    """The output of a cell, about the hostile corpus."""
    page = render(payload(contents))
    frame = {"srcdoc": compressed(page), "sandbox": _SANDBOX}
    shown = BrowsedPage(contents.name, frame, size_bytes=len(page), height=700, path=None)
    return shown._repr_html_()


def notebook(folder: Path, output: str, policy: str = "") -> Path:
    """A page with the output of a cell in it."""
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">' if policy else ""
    path = folder / "notebook.html"
    path.write_text(
        f"<!doctype html><html><head><meta charset=utf-8>{meta}</head><body><h2>A notebook</h2>"
        f"{output}</body></html>"
    )
    return path


def opened(watched):
    """The frame of a notebook, once the page in it is shown."""
    watched.tab.goto(watched.address)
    frame = watched.tab.frames[1]
    frame.wait_for_selector("main h1")
    return frame


@pytest.mark.browser
@pytest.mark.parametrize("policy", ["", VS_CODE], ids=["plain", "vs code"])
def test_the_page_works_in_a_frame_with_links_keys_and_figures(
    watch, in_a_notebook, tmp_path, policy
):
    watched = watch(notebook(tmp_path, in_a_notebook, policy))
    frame = opened(watched)
    frame.wait_for_selector(".figure.usage[data-drawn] svg.main-svg")
    frame.click("nav a[data-tab=codes]")
    n_rows = "document.querySelectorAll('table.codes tbody tr').length"
    wait_until(frame, f"{n_rows} === {N_CODES}")
    frame.locator("table.codes tbody td.code a, table.codes tbody a").first.click()
    wait_until(frame, "document.getElementById('main').dataset.hash.startsWith('#code=')")
    frame.click("text=All concepts")
    wait_until(frame, "document.getElementById('main').dataset.hash === '#codes'")
    frame.locator("body").press("Escape")  # up, by the keyboard
    wait_until(frame, "document.getElementById('main').dataset.hash === ''")
    frame.click("nav a[data-tab=flow]")
    frame.wait_for_selector(".figure.flow[data-drawn] svg.main-svg")
    assert watched.tab.url == watched.address  # the notebook stayed where it was
    assert len(watched.tab.frames) == 2
    assert frame.evaluate("window.pwned") is None


@pytest.mark.browser
def test_the_frame_fits_and_cannot_reach_the_notebook(watch, in_a_notebook, tmp_path):
    watched = watch(notebook(tmp_path, in_a_notebook))
    frame = opened(watched)
    assert frame.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert frame.evaluate("innerHeight") == 700
    assert frame.evaluate("origin") == "null"
    reached = frame.evaluate(
        "() => { try { return parent.document.title; } catch { return null; } }"
    )
    assert reached is None


@pytest.mark.browser
def test_a_page_in_a_file_is_shown_in_a_frame(watch, toy_fit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = toy_fit.browse(cl.toy.generate(6, seed=6), "report.html", **QUIET)
    watched = watch(notebook(tmp_path, shown._repr_html_()))
    frame = opened(watched)
    frame.click("nav a[data-tab=codes]")
    wait_until(frame, "location.hash === '#codes'")
    watched.requests.clear()  # the file itself
