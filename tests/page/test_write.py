"""The page as a file: whole, small, the same every time, and closed to what a corpus holds."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from clvq_lens.concepts.concept import Concept, Counted, Example, Neighbor, TokenLogit, Unembedded
from clvq_lens.concepts.table import ConceptTable
from clvq_lens.config import CLVQConfig
from clvq_lens.errors import PathError
from clvq_lens.page import write
from clvq_lens.page.payload import payload
from clvq_lens.page.write import as_json, check_path, render, write_page
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from tests.page.conftest import HOSTILE

_BYTES = 25 * 10**6


class Reader(HTMLParser):
    """The elements of a page: tags, attributes and what scripts hold."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict]] = []
        self.scripts: list[tuple[dict, str]] = []
        self._open = None
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._open = (dict(attrs), [])

    def handle_data(self, data) -> None:
        if self._open:
            self._open[1].append(data)

    def handle_endtag(self, tag) -> None:
        if tag == "script":
            self.scripts.append((self._open[0], "".join(self._open[1])))
            self._open = None


@pytest.fixture(scope="module")
def page(path) -> Reader:
    return Reader(path.read_text(encoding="utf-8"))


def test_the_page_holds_data_plotly_and_our_script_and_nothing_from_elsewhere(page):
    kinds = [attributes.get("type") for attributes, _ in page.scripts]
    assert kinds == ["application/json", None, None]
    for _, attributes in page.tags:
        assert not {"src", "onclick", "onerror", "onload"} & attributes.keys()
        assert attributes.get("href", "#").startswith("#")


def test_the_data_come_back_as_they_were(page, contents):
    assert json.loads(page.scripts[0][1]) == payload(contents)


def test_the_policy_names_the_hashes_of_both_scripts_and_allows_no_other(page):
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for attributes, script in page.scripts
        if "type" not in attributes
    ]
    assert directives["script-src"].split() == hashes
    assert "unsafe-eval" not in policy


def test_no_text_ends_the_element_of_the_data(contents):
    text = render(payload(contents))
    data = text[text.index('id="data">') :].split(">", 1)[1]
    data = data[: data.index("</script>")]
    assert not re.search("[<>&\u2028\u2029]", data)


@pytest.mark.parametrize("text", [*HOSTILE, "\ud800 alone", "a\0b", "\x7f", 'quotes " and \\'])
def test_every_text_survives_as_json(text):
    written = as_json({text: text})
    assert json.loads(written) == {text: text}
    assert not re.search("[<>&\u2028\u2029]", written)
    written.encode()


def test_a_number_that_json_lacks_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json({"x": float("nan")})


def test_the_title_is_escaped(page, path):
    title = re.search("<title>(.*?)</title>", path.read_text(encoding="utf-8"))
    assert "<" not in title[1]
    assert "&lt;img src=" in title[1]


def test_the_same_contents_give_the_same_bytes(contents, path, tmp_path):
    again = write_page(tmp_path / "again.html", contents)
    assert again.read_bytes() == path.read_bytes()


def test_every_script_of_the_folder_is_in_the_page(path):
    names = {file.name for file in write._STATIC.iterdir() if file.name.endswith(".js")}
    assert names == set(write._SCRIPTS)


def big_table(n_codes: int, n_examples: int) -> ConceptTable:
    words = np.random.default_rng(0).integers(0, 5_000, 100_000)

    def example(i: int) -> Example:
        text = [f" word{words[(17 * i + j) % len(words)]}" for j in range(17)]
        return Example(i, 8, "".join(text[:8]), text[8], "".join(text[9:]), 0.123456, 0.234567)

    def concept(code: int) -> Concept:
        examples = [
            tuple(example(n_examples * (3 * code + kind) + i) for i in range(n_examples))
            for kind in range(3)
        ]
        tokens = tuple(Counted(f" word{words[code + i]}", 9, 0.1, 12.345678) for i in range(10))
        logits = tuple(TokenLogit(f" word{words[code + i]}", 1.234567) for i in range(10))
        nearest = tuple(Neighbor((code + i) % n_codes, 12.345678) for i in range(1, 6))
        vector = Unembedded(logits, logits)
        return Concept(
            *(code, f"name {code}", 1_000, 1 / n_codes, tokens, tokens, *examples),
            *(vector, vector, 2.345678, 3.456789, nearest, ()),
        )

    return ConceptTable(tuple(map(concept, range(n_codes))), 10**6, 6.0, 5.0)


def test_a_thousand_codes_with_twenty_examples_of_each_kind_stay_below_25_mb(contents):
    quantizer = CrossLayerQuantizer(CLVQConfig(n_codes=1_000), 16, 16, causal=True)
    big = replace(contents, concepts=big_table(1_000, 20), quantizer=quantizer)
    size = len(render(payload(big)).encode())
    assert 15 * 10**6 < size < _BYTES


def test_a_path_that_cannot_be_written_is_refused(tmp_path, contents):
    with pytest.raises(PathError, match=r"is a folder\. Pass"):
        check_path(tmp_path)
    with pytest.raises(PathError, match=r"no folder .*missing to write report\.html"):
        write_page(tmp_path / "missing" / "report.html", contents)


def test_an_interrupted_write_leaves_the_page_of_before(contents, tmp_path, monkeypatch):
    page = tmp_path / "report.html"
    page.write_text("before")

    def fails(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("clvq_lens.writing.os.replace", fails)
    with pytest.raises(KeyboardInterrupt):
        write_page(page, contents)
    assert page.read_text() == "before"
    assert list(tmp_path.iterdir()) == [page]
