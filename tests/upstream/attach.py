"""A pytest plugin: puts a quantizer on every model that the tests of TransformerLens build.

Loaded with ``-p attach`` by `tests.upstream.run`, which says in the environment what to do:
``CLVQ_UPSTREAM`` is "plain" or "attached"; what became of each test, and of each model,
is written to ``CLVQ_UPSTREAM_RESULTS``.
"""

import functools
import json
import os
import unittest.mock
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

_MODE = os.environ["CLVQ_UPSTREAM"]
_outcomes: dict[str, str] = {}
_attached: Counter[str] = Counter()
_left_alone: Counter[str] = Counter()
_seconds: Counter[str] = Counter()
_loading: list[type] = []  # classes whose from_pretrained is under way


def pytest_configure() -> None:
    _list_repositories_offline()
    if _MODE == "plain":
        return
    import clvq_lens

    if _MODE == "attached":
        for cls in _host_classes():
            _attach_to_all(cls, clvq_lens)


def _host_classes() -> list[type]:
    import transformer_lens
    from transformer_lens.model_bridge import TransformerBridge

    classes = [TransformerBridge]
    if int(version("transformer-lens").split(".")[0]) < 4:
        classes += [transformer_lens.HookedTransformer, transformer_lens.HookedEncoder]
    return classes


def _list_repositories_offline() -> None:
    """TransformerLens asks the Hub for the files of its own models; the cache knows them too."""
    from huggingface_hub import HfApi, snapshot_download

    def list_repo_files(self: Any, repo_id: str, **_: Any) -> list[str]:
        return [path.name for path in Path(snapshot_download(repo_id)).iterdir()]

    HfApi.list_repo_files = list_repo_files


def _attach_to_all(cls: type, clvq_lens: Any) -> None:
    """From now on, every new model of a class has a quantizer."""
    construct = cls.__init__

    @functools.wraps(construct)
    def construct_and_attach(self: Any, *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        if not _loading:
            _attach(self, clvq_lens)

    cls.__init__ = construct_and_attach
    if "from_pretrained" in cls.__dict__:
        cls.from_pretrained = classmethod(_attach_at_the_end(cls.from_pretrained, clvq_lens))


def _attach_at_the_end(load: Any, clvq_lens: Any) -> Any:
    """Until it is loaded, a model has whatever weights its memory held before."""

    @functools.wraps(load)
    def load_and_attach(cls: type, *args: Any, **kwargs: Any) -> Any:
        _loading.append(cls)
        try:
            model = load.__func__(cls, *args, **kwargs)
        finally:
            _loading.pop()
        _attach(model, clvq_lens)
        return model

    return load_and_attach


def _attach(model: Any, clvq_lens: Any) -> None:
    reason = _why_not(model)
    if not reason:
        try:
            clvq_lens.add_clvq(model, 0, model.cfg.n_layers - 1, n_codes=8)
        except clvq_lens.errors.UnsupportedHostError as refusal:
            reason = str(refusal)
    if reason:
        _left_alone[f"{type(model).__name__}: {reason}"] += 1
    else:
        _attached[type(model).__name__] += 1


def _why_not(model: Any) -> str:
    """Why a quantizer on a model would make no sense; empty if it does."""
    from transformers import PreTrainedTokenizerBase

    if isinstance(model.cfg, unittest.mock.Mock):
        return "a mock"
    if not isinstance(getattr(model, "blocks", None), torch.nn.ModuleList):
        return "no stack of blocks"
    if not isinstance(model.tokenizer, PreTrainedTokenizerBase | None):
        return "a stand-in for a tokenizer"
    return ""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test passed if its call did and nothing around it failed."""
    _seconds[report.nodeid.split("::")[0]] += report.duration
    tells = report.when == "call" or report.outcome != "passed"
    if tells and _outcomes.get(report.nodeid) != "failed":
        _outcomes[report.nodeid] = report.outcome


def pytest_sessionfinish() -> None:
    results = {
        **{"outcomes": _outcomes, "attached": _attached, "left_alone": _left_alone},
        "seconds": _seconds,
    }
    Path(os.environ["CLVQ_UPSTREAM_RESULTS"]).write_text(json.dumps(results))
