"""A page about a corpus that tries to break out of it, and a tab that looks at it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import clvq_lens as cl
from clvq_lens.page.contents import Contents, gather
from clvq_lens.page.write import write_page
from tests.conftest import random_model

HOSTILE = [
    "<script>window.pwned=1</script>",
    "</script><script>window.pwned=2</script>",
    '<img/src=x/onerror="window.pwned=3">',
    "\"'`><svg/onload=window.pwned=4>",
    "{{7*7}}${7*7}",
    "javascript:window.pwned=5",
    '<a/href="javascript:window.pwned=6">click</a>',
    "&lt;b&gt;&amp;",
    "<!--",
    "\u2028\u2029",
    "$\\href{javascript:window.pwned=7}{x}$",
]
PLAIN = [f"word{number}" for number in range(20)]
N_CODES = 12


def hostile_model(folder: Path):
    """A tiny random model whose tokens are whole words, hostile ones among them."""
    words = ["<unk>", "<bos>", *HOSTILE, *PLAIN]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    model = random_model(d_vocab=len(words), model_name='<img src="x" onerror="window.pwned=8">')
    special = dict.fromkeys(["bos_token", "eos_token", "pad_token"], "<bos>")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **special)
    fast.save_pretrained(folder)
    model.set_tokenizer(PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True))
    return model


def hostile_texts() -> list[str]:
    words = HOSTILE + PLAIN
    return [" ".join(words[(i * 7 + 5 * j) % len(words)] for j in range(12)) for i in range(40)]


@pytest.fixture(scope="session")
def contents(tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """Two quantizers in a chain on the hostile corpus, with hostile labels and names."""
    model, texts = hostile_model(tmp_path_factory.mktemp("tokenizer")), hostile_texts()
    lenses, histories = [], []
    for source, target in ((0, 1), (2, 3)):
        lens = model.add_clvq(source, target, n_codes=N_CODES, top_k=3)
        histories.append(lens.fit(texts, n_tokens=3_000, batch_tokens=256, progress=False))
        lenses.append(lens)
    contents = gather(
        lenses[0].attachment,
        texts,
        token_labels=[[HOSTILE[j % 3] for j in range(12)] for _ in texts],
        history=histories[0],
        n_examples=4,
        n_texts=10,
        progress=False,
    )
    named = contents.concepts.named(lambda examples: HOSTILE[len(str(examples[0])) % len(HOSTILE)])
    return replace(contents, concepts=named)


@pytest.fixture(scope="session")
def path(contents: Contents, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page, written."""
    return write_page(tmp_path_factory.mktemp("page") / "report.html", contents)


def settled(tab) -> str:
    """The hash of a tab, once its view is shown: the event that tells of it comes later."""
    wait_until(tab, "document.getElementById('main').dataset.hash === location.hash")
    return tab.evaluate("location.hash")


def wait_until(tab, condition: str) -> None:
    """Waits for a JavaScript expression; playwright's own waiting needs eval, which pages bar."""
    for _ in range(200):
        if tab.evaluate(condition):
            return
        tab.wait_for_timeout(25)
    pytest.fail(f"not so after five seconds: {condition}")


class Watched:
    """A tab that notes what goes wrong in it.

    Attributes:
        tab: The page as playwright knows it.
        errors: Errors and warnings of the console and of scripts.
        requests: Addresses that it asked for, without the page itself.
        refused: Addresses that the policy of the page refused.
    """

    def __init__(self, browser, path: Path, **options) -> None:
        self.address = path.as_uri()
        self.tab = browser.new_page(**{"viewport": {"width": 1440, "height": 900}, **options})
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.refused: list[str] = []
        self.tab.on("console", self._console)
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("request", self._request)
        self.tab.on("requestfailed", self._failed)
        self.tab.on("dialog", lambda dialog: self.errors.append(dialog.message))

    def _console(self, message) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def _request(self, request) -> None:
        if request.url.split("#")[0] not in (self.address, "about:blank"):
            self.requests.append(request.url)

    def _failed(self, request) -> None:
        if request.failure == "csp":
            self.refused.append(request.url)

    def open(self, address: str = ""):
        """Goes to a view as a link from outside would."""
        self.tab.goto("about:blank")
        self.tab.goto(self.address + address)
        self.tab.wait_for_selector("main h1")
        return self.tab

    def go(self, address: str = "#"):
        """Goes to a view as a link on the page would."""
        self.tab.evaluate("hash => { location.hash = hash; }", address)
        assert settled(self.tab) == ("" if address == "#" else address)
        return self.tab


@pytest.fixture
def watch(chromium) -> Iterator[Callable[..., Watched]]:
    """Opens pages; afterwards nothing may have gone wrong in any of them."""
    opened: list[Watched] = []

    def open_page(path: Path, **options) -> Watched:
        opened.append(Watched(chromium, path, **options))
        return opened[-1]

    yield open_page
    for watched in opened:
        pwned = watched.tab.evaluate("window.pwned")
        watched.tab.close()
        assert pwned is None
        assert watched.errors == []
        assert watched.requests == []


@pytest.fixture(scope="session")
def toy_fit() -> Iterator[cl.Lens]:
    """A lens on the toy world, fitted for a moment."""
    model, texts = cl.toy.load(n_texts=100)
    lens = model.add_clvq(1, 3, n_codes=16)
    lens.fit(texts, n_tokens=6_000, progress=False)
    yield lens
    lens.remove()
