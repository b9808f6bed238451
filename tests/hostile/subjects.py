"""The models that hostile input meets, the verbs that take it, and what must hold afterwards."""

import copy
import functools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import clvq_lens as cl
from clvq_lens.errors import OpenBlockError
from tests.hosts import Kind, words

N_CODES = 12
QUICK = {"n_tokens": 200, "batch_tokens": 64, "n_evaluations": 2, "progress": False}
_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("fwd_hooks", "bwd_hooks"),
)


@functools.cache
def subject_of(kind: Kind) -> "Subject":
    """The subject of a kind, made once."""
    return Subject(kind)


class Subject:
    """A model with two fitted lenses, one after the other, and a memory of how it should be.

    Args:
        kind: Of the host.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self._make()

    def _make(self) -> None:
        self.model = self.kind.model()
        data = words(60, 16, seed=2)
        for source, target in ((1, 2), (2, 3)):
            lens = self.model.add_clvq(source, target, n_codes=N_CODES, top_k=3)
            lens.fit(data, n_tokens=2_000, batch_tokens=256, progress=False)
        self.model.run_with_cache(
            words(1, 3)
        )  # what it keeps of its first pass is no trace of ours
        self.before = self._state()

    @property
    def lens(self) -> "cl.Lens":
        """The first of the two."""
        return self.model.clvqs["1-2"]

    def new_lens(self, **options: Any) -> "cl.Lens":
        """A lens that has not been fitted."""
        return self.model.add_clvq(1, 2, name="new", **{"n_codes": 4, "top_k": 2, **options})

    def _state(self) -> dict[str, Any]:
        modules = dict(self.model.named_modules()) | dict(self.model.hook_dict)
        quantizers = {name: lens.quantizer for name, lens in self.model.clvqs.items()}
        modules |= quantizers
        weights = dict(self.model.named_parameters())
        for name, quantizer in quantizers.items():
            weights |= {f"{name}.{key}": value for key, value in quantizer.state_dict().items()}
        return {
            "lenses": list(self.model.clvqs),
            "open blocks": [_is_open(lens) for lens in self.model.clvqs.values()],
            "mode": {name: module.training for name, module in modules.items()},
            "hooks": {
                (name, kind): len(getattr(module, kind, ()))
                for name, module in modules.items()
                for kind in _HOOKS
            },
            "requires_grad": [p.requires_grad for p in self.model.parameters()],
            "weights": {
                name: float(value.detach().double().sum()) for name, value in weights.items()
            },
            "grad": torch.is_grad_enabled(),
            "default dtype": torch.get_default_dtype(),
        }

    def assert_unchanged(self) -> None:
        """Raises if the model is not as it was; it is made anew then."""
        after = self._state()
        changed = [what for what, value in self.before.items() if after[what] != value]
        if changed:
            details = {what: _difference(self.before[what], after[what]) for what in changed}
            self._make()
            raise AssertionError(f"the case left the model changed: {details}")


def _is_open(lens: "cl.Lens") -> bool:
    try:
        lens.attachment.require_closed("run another case")
    except OpenBlockError:
        return True
    return False


def _difference(before: Any, after: Any) -> Any:
    if not isinstance(before, dict):
        return before, after
    keys = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
    return {key: (before.get(key), after.get(key)) for key in keys[:3]}


# ---- verbs ---------------------------------------------------------------------------------------

Call = Callable[[Subject, Any], Any]


@dataclass(frozen=True)
class Verb:
    """Something that reads texts or tokens.

    Attributes:
        call: With a subject and the data.
        check: Raises `AssertionError` if the result is wrong.
        is_slow: Whether it takes a tenth of a second or more.
    """

    call: Call
    check: Callable[[Subject, Any, Any], Any]
    is_slow: bool = False


def finite(value: Any, *, nan: bool = False) -> None:
    """Raises if a number is infinite, or is no number and may not be."""
    values = torch.as_tensor(np.asarray(value, dtype=float))
    assert not values.isinf().any(), "a number is infinite"
    assert nan or not values.isnan().any(), "a number is NaN"


def _fit(subject: Subject, data: Any) -> tuple[Any, Any]:
    lens = subject.new_lens(decoder="mlp")
    try:
        return lens.fit(data, **QUICK), copy.deepcopy(lens.quantizer)
    finally:
        lens.remove()


def _check_fit(subject: Subject, data: Any, result: Any) -> None:
    history, quantizer = result
    for name, value in quantizer.state_dict().items():
        if value.is_floating_point():
            assert value.isfinite().all(), f"{name} is not finite"
    assert (quantizer.usage >= 0).all()
    history.frame()
    history.plot()


def check_encoding(subject: Subject, data: Any, encoding: "cl.Encoding") -> None:
    """Raises if an encoding contradicts itself, or another one of the same tokens."""
    codes, mask, real = encoding.codes, encoding.mask, encoding.real
    assert codes.shape == mask.shape == encoding.tokens.shape
    assert len(encoding.documents) == len(encoding.strings) == len(codes)
    assert list(encoding.documents) == sorted(encoding.documents)
    assert (codes < subject.lens.config.n_codes).all(), "a code is not in the codebook"
    assert not (mask & ~real).any(), "a token that counts has no code"
    assert not torch.isin(encoding.tokens[real], subject.lens.host.vocabulary.special).any()
    assert len(encoding.frame()) == int(mask.sum())
    if len(codes):
        encoding.plot()
    again = subject.lens.encode(_with_mask(encoding))
    width = again.codes.shape[1]
    agree = again.codes == codes[:, :width]
    assert agree.all(), f"encoding its own tokens agrees in {agree.float().mean():.0%}"


def _with_mask(encoding: "cl.Encoding") -> dict[str, Tensor]:
    """The tokens of an encoding, and which of them are padding, which tokens alone may not tell."""
    attended = torch.zeros_like(encoding.tokens)
    for row, strings in enumerate(encoding.strings):
        attended[row, : len(strings)] = torch.tensor([bool(string) for string in strings]).long()
    return {"input_ids": encoding.tokens, "attention_mask": attended}


def _check_report(subject: Subject, data: Any, report: "cl.Evaluation") -> None:
    assert report.n_tokens > 0
    assert report.n_documents > 0
    assert 1 - 1e-6 <= float(report.perplexity) <= N_CODES + 1e-6
    assert 0 <= report.n_dead_codes < N_CODES
    finite(report.frame()["value"].astype(float), nan=True)


def _check_table(subject: Subject, data: Any, table: "cl.ConceptTable") -> None:
    frame = table.frame()
    assert len(frame) == N_CODES
    for code in (0, N_CODES - 1):
        assert repr(table[code])
        table[code]._repr_html_()
    table.names()
    repr(table)


def _shown(subject: Subject, data: Any, result: Any) -> None:
    """Whatever it can be looked at as."""
    for name in ("frame", "plot"):
        if hasattr(result, name):
            getattr(result, name)()
    repr(result)


def _baseline(subject: Subject, data: Any) -> None:
    lens = subject.lens.baseline("k-means", data, n_tokens=200, progress=False)
    lens.remove()


def _salience(subject: Subject, data: Any) -> Any:
    weight = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    readout = cl.head(weight, layer=3, sentence="mean")
    return cl.salience(subject.model, data, 1, readout, n_steps=2, progress=False)


def _report(subject: Subject, data: Any) -> str:
    path = Path("page.html").absolute()
    try:
        return subject.lens.report(data, path, progress=False, n_examples=2, n_texts=3).read_text()
    finally:
        with suppress(OSError):
            path.unlink()


def _check_page(subject: Subject, data: Any, page: str) -> None:
    assert page.count("</script>") == 3, "data have ended the element that holds them"


def _refits(subject: Subject, data: Any) -> int:
    with cl.refits(subject.lens, data, seeds=2, n_tokens=200, progress=False) as lenses:
        return len(lenses)


def _edited_pass(subject: Subject, data: Any) -> Any:
    encoding = subject.lens.encode(data)
    with subject.lens.edit(cl.Ablate([0, 1, 2])):
        return subject.model(encoding.tokens)


def _check_logits(subject: Subject, data: Any, logits: Tensor) -> None:
    assert logits.isfinite().all()


VERBS: dict[str, Verb] = {
    "encode": Verb(lambda s, data: s.lens.encode(data), check_encoding),
    "fit": Verb(_fit, _check_fit, is_slow=True),
    "evaluate": Verb(lambda s, data: s.lens.evaluate(data, progress=False), _check_report),
    "concepts": Verb(
        lambda s, data: s.lens.concepts(data, progress=False, n_examples=2), _check_table
    ),
    "edit": Verb(_edited_pass, _check_logits),
    "flow": Verb(lambda s, data: cl.concept_flow(s.model, data, progress=False), _shown),
    "causal": Verb(
        lambda s, data: cl.causal_flow(s.model, data, n_controls=1, progress=False), _shown, True
    ),
    "sentence": Verb(lambda s, data: cl.sentence_flow(s.model, data), _shown),
    "sweep": Verb(lambda s, data: cl.ablation_sweep(s.lens, data, cl.kl(), progress=False), _shown),
    "patching": Verb(
        lambda s, data: cl.concept_patching(s.lens, data, data, cl.kl(), progress=False), _shown
    ),
    "attribution": Verb(
        lambda s, data: cl.attribution(s.lens, data, cl.kl(), n_steps=2, n_true=2, progress=False),
        _shown,
        True,
    ),
    "salience": Verb(_salience, _shown),
    "baseline": Verb(_baseline, _shown, True),
    "report": Verb(_report, _check_page, True),
    "collapse": Verb(
        lambda s, data: cl.collapse(s.lens, data, n_clusters=3, n_tokens=200, progress=False),
        _shown,
        True,
    ),
    "stability": Verb(lambda s, data: cl.stability({"codes": [s.lens, s.lens]}, data), _shown),
    "refits": Verb(_refits, _shown, True),
}
