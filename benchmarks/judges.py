"""Names judged by several judges: ``python -m benchmarks.judges``, or with ``toy`` or ``smollm2``.

Codes of the toy world and of SmolLM2 are named by their most distinctive tokens and by
SmolLM2-135M-Instruct, and every name is judged by a built-in rule, by that model in this process,
and by a server. The server is a stand-in on this machine that speaks the protocol and answers by
word overlap; ``--server URL MODEL`` takes a real one. Answers are kept, so a run that is
interrupted goes on; the second run of each verb reads them.
"""

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

import clvq_lens as cl
from benchmarks import markdown, smollm2
from benchmarks.kept_activations import kept_activations
from benchmarks.paper.data import wikitext
from benchmarks.paper.finetune import RUNS

RESULTS = Path(__file__).parent / "results"
CACHE = RUNS / "judges"
MARK = "<!-- below: written by benchmarks.judges -->"
LOCAL = "SmolLM2-135M-Instruct"
N_CONTEXTS = 8
BATCH = 32
_PACKAGES = ("torch", "transformers", "transformer-lens")
Judges = dict[str, "cl.judges.LanguageJudge | None"]
"""Judges by what they are called; None is the built-in rule."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Codes whose names are judged.

    Attributes:
        title: What the page calls it.
        tables: Gives the table that codes are named from, and one of other texts to judge with.
        n_codes: How many codes are judged: every second one of the commonest.
    """

    title: str
    tables: Callable[[], tuple[cl.ConceptTable, cl.ConceptTable]]
    n_codes: int


# ---- codes ---------------------------------------------------------------------------------------


def toy() -> tuple[cl.ConceptTable, cl.ConceptTable]:
    """A small world whose concepts are known."""
    world = cl.toy.load(n_texts=600)
    lens = world.model.add_clvq(1, 3, n_codes=48, decoder="table")
    lens.fit(world.texts, n_tokens=60_000, progress=False)
    train = lens.concepts(world.texts, progress=False)
    return train, lens.concepts(cl.toy.generate(300, seed=5), progress=False)


def smollm() -> tuple[cl.ConceptTable, cl.ConceptTable]:
    """Blocks 10 to 20 of SmolLM2 on WikiText-2."""
    model = smollm2.model()
    train, held_out = wikitext()
    lens = model.add_clvq(*smollm2.LAYERS, n_codes=64, decoder="table")
    with kept_activations(model, smollm2.ACTIVATIONS):
        lens.fit(train, n_tokens=60_000, kl_weight=0.0, progress=False)
        named_from = lens.concepts(train[:300], progress=False)
        return named_from, lens.concepts(held_out, progress=False)


SUBJECTS = {
    "toy": Subject(title="the toy world, block 1 to 3, 48 codes", tables=toy, n_codes=20),
    "smollm2": Subject(
        title="SmolLM2-135M on WikiText-2, block 10 to 20, 64 codes", tables=smollm, n_codes=20
    ),
}


# ---- judges --------------------------------------------------------------------------------------


class _ByOverlap(BaseHTTPRequestHandler):
    """Says yes where a word of the name stands anywhere in the passage."""

    def do_POST(self) -> None:
        prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = prompt["messages"][0]["content"]
        passage = text.split("Passage: ")[1].split("\n")[0].replace("<<", " ").replace(">>", " ")
        name = text.split('"')[-2]
        answer = "Yes" if set(name.lower().split()) & set(passage.lower().split()) else "No"
        message = {"role": "assistant", "content": answer}
        content = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextmanager
def stand_in() -> Iterator[str]:
    """The address of a server in a thread of this process."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _ByOverlap)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def local(cache: Path) -> cl.judges.LanguageJudge:
    """SmolLM2-135M-Instruct in this process."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = smollm2.unpacked()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return cl.judges.hf(model, tokenizer, cache=cache, batch_size=BATCH)


# ---- measuring -----------------------------------------------------------------------------------


def measured(subject: Subject, judges: Judges) -> list[str]:
    """What is found of one subject, as parts of the page."""
    train, held_out = subject.tables()
    # Every second: the very commonest are marks and articles alone.
    judged = [int(code) for code in held_out.frame()["code"][: 2 * subject.n_codes : 2]]
    parts: list[str] = []
    costs: list[list[str]] = []
    for namer in (None, LOCAL):
        said = namer or "their most distinctive tokens"
        name = partial(train.named, None if namer is None else judges[namer])
        named, cost = _twice(name, judges[LOCAL])
        if namer is not None:
            costs.append([f"names of {len(train)} codes", namer, *cost])
        names = named.names()
        found: dict[str, cl.Detection] = {}
        for judge_name, judge in judges.items():
            ask = partial(cl.detection, held_out, judge, names, codes=judged, n_contexts=N_CONTEXTS)
            found[judge_name], cost = _twice(ask, judge)
            costs.append([f"detection, named by {said}", judge_name, *cost])
        some = ", ".join(f"{names[code]!r}" for code in judged[:6])
        parts += [
            f"**Named by {said}**, such as {some}:",
            _accuracies(found),
            _concordance(cl.judges.agreement(found)),
        ]
    titles = ["", "by", "prompts", "s", "prompts, 2nd run", "s, 2nd run"]
    return [*parts, markdown.table(titles, "llrrrr", costs)]


def _twice(ask: Callable[[], Any], judge: cl.judges.LanguageJudge | None) -> tuple[Any, list[str]]:
    """What is found, and the prompts and seconds that it takes, at first and again."""
    cost: list[str] = []
    results: list[Any] = []
    for _ in range(2):
        n_before = 0 if judge is None else judge.n_asked
        started = time.perf_counter()
        results.append(ask())
        seconds = time.perf_counter() - started
        n_asked = 0 if judge is None else judge.n_asked - n_before
        cost += [f"{n_asked:,}", f"{seconds:.2f}"]
    first, again = results
    if isinstance(first, cl.Detection) and first != again:
        raise RuntimeError("the second run, from the cache, found something else")
    return first, cost


def _accuracies(found: dict[str, cl.Detection]) -> str:
    rows: list[list[str]] = []
    for judge, detection in found.items():
        own, control = detection.summary().itertuples()
        n_answers = 2 * sum(detection.n_contexts)
        rows.append(
            [
                judge,
                f"{len(detection.codes)}",
                f"{own.accuracy:.3f} [{own.low:.3f}, {own.high:.3f}]",
                f"{control.accuracy:.3f} [{control.low:.3f}, {control.high:.3f}]",
                f"{detection.n_undecided} of {n_answers}",
            ]
        )
    titles = ["judge", "codes", "accuracy", "names of other codes", "undecided"]
    return markdown.table(titles, "lrrrr", rows)


def _concordance(agreement: cl.judges.JudgeAgreement) -> str:
    rows: list[list[str]] = []
    for row in agreement.frame().itertuples():
        null = f"{row.null_mean:.3f} [{row.null_low:.3f}, {row.null_high:.3f}]"
        rows.append([row.names, f"{row.kendall_w:.3f}", null, f"{row.p:.4f}", str(row.n_codes)])
    return markdown.table(["names", "Kendall's W", "shuffled", "p", "codes"], "lrrrr", rows)


# ---- the page ------------------------------------------------------------------------------------


def main() -> None:
    """Measures what is asked for, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subjects", nargs="*", metavar="subject", help=", ".join(SUBJECTS))
    parser.add_argument("--server", nargs=2, metavar=("URL", "MODEL"))
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args()
    subjects = {name: SUBJECTS[name] for name in options.subjects or SUBJECTS}
    with stand_in() as url:
        address, model = options.server or (url, "stand-in")
        judges: Judges = {
            "the marked token": None,
            LOCAL: local(options.cache),
            # A stand-in has another port each time, and so its answers are not kept for the next.
            "a server": cl.judges.openai(address, model, cache=options.cache / "server"),
        }
        for name, subject in subjects.items():
            about = (
                f"`python -m benchmarks.judges {name}`, {torch.get_num_threads()} thread(s), "
                f"{markdown.versions(_PACKAGES)}. Every second of the {2 * subject.n_codes} "
                f"commonest codes, at most {N_CONTEXTS} contexts each; intervals over codes. The "
                f"null of W shuffles the accuracies of each judge over codes. The server is "
                f"{'a stand-in' if options.server is None else 'real'}."
            )
            page = RESULTS / f"judges-{name}.md"
            parts = [about, *measured(subject, judges)]
            markdown.write_below(MARK, parts, page, title=f"Names judged: {subject.title}")


if __name__ == "__main__":
    main()
