"""Models whose blocks are on two devices: everything works, and gives what one device gives."""

import copy
import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, is_dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import clvq_lens as cl
from clvq_lens.training import loop, prediction
from tests.fake_devices import FIRST, SECOND, move_inputs, moved, second_device
from tests.host.contract.checks import HOOKS, difference
from tests.hosts import FIRST_WORD, KINDS, text_of, words

GPU = torch.device("cuda", 0)
N_LOWER = 2  # blocks
TOKENS = words(4, 12)
TEXTS = [text_of(words(n, seed=n)) for n in (9, 5, 12)]
ACROSS, ON_UPPER = (1, 3), (2, 3)


@dataclass(frozen=True)
class Places:
    """Where the lower and the upper blocks are; one of the two is the CPU."""

    lower: torch.device
    upper: torch.device

    @property
    def fake(self) -> bool:
        """Whether results have the same bits as on one device."""
        return SECOND in (self.lower, self.upper)

    def of(self, layer: int) -> torch.device:
        return self.lower if layer < N_LOWER else self.upper

    def open(self) -> AbstractContextManager[Any]:
        """While open, there is the second device, if it is a fake one."""
        return second_device() if self.fake else nullcontext()


@dataclass(frozen=True)
class Setting:
    """A kind of host over two devices, and the layers that a quantizer connects there."""

    kind: str
    places: Places
    pair: tuple[int, int] = ACROSS

    def __str__(self) -> str:
        direction = "gpu" if not self.places.fake else "down" if self.places == DOWN else "up"
        return f"{self.kind}-{direction}-{'across' if self.pair == ACROSS else 'on upper'}"


UP, DOWN, ON_GPU = Places(FIRST, SECOND), Places(SECOND, FIRST), Places(FIRST, GPU)
# Down also checks indices, which may be on the CPU whatever they index. What an encoder adds, the
# other direction and other layers each differ once; a GPU draws other random numbers.
SETTINGS = [Setting("hooked-gpt2", DOWN), Setting("bridge-llama", DOWN)]
SLOW = [
    Setting("bridge-bert", DOWN),
    Setting("bridge-llama", UP),
    Setting("hooked-gpt2", DOWN, ON_UPPER),
]
GPU_SETTINGS = [Setting(kind, ON_GPU) for kind in ("hooked-gpt2", "bridge-llama", "bridge-bert")]
has_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


# ---- models on two devices -----------------------------------------------------------------------


def new_model(kind: Any) -> Any:
    """A model that shares no weight of its two ends."""
    model = kind.model()
    if kind.is_bridge:
        unembedding = model.unembed.original_component
        unembedding.weight = torch.nn.Parameter(unembedding.weight.detach().clone())
    return model


def on_two_devices(kind: Any, places: Places, patch: pytest.MonkeyPatch) -> Any:
    """The kind's model, with final norm and unembedding beside its last blocks."""
    model = new_model(kind)
    torch.nn.Module.to(getattr(model, "original_model", model), places.lower)
    head = [getattr(model, name, None) for name in ("mlm_head", "ln_final", "unembed")]
    for module in [*list(model.blocks)[N_LOWER:], *(part for part in head if part is not None)]:
        module.to(places.upper)
    if kind.is_bridge:  # as accelerate and TransformerLens do it for a device map
        model.cfg.device = str(places.lower)
        for index, block in enumerate(model.blocks):
            move_inputs(block.original_component, places.of(index))
        return model

    def device_of_block(index: int, cfg: Any, first: Any = None) -> torch.device:
        return places.of(index) if cfg.n_devices > 1 else FIRST

    model.cfg.n_devices = 2
    # TransformerLens itself only reads that where all devices are GPUs.
    for module in ("HookedTransformer", "cache.key_value_cache"):
        place = importlib.import_module(f"transformer_lens.{module}")
        patch.setattr(place, "get_device_for_block_index", device_of_block)
    return model


@pytest.fixture(
    scope="module",
    params=[
        *SETTINGS,
        *(pytest.param(setting, marks=pytest.mark.slow) for setting in SLOW),
        *(pytest.param(setting, marks=[pytest.mark.gpu, has_gpu]) for setting in GPU_SETTINGS),
    ],
    ids=str,
)
def setting(request: pytest.FixtureRequest) -> Setting:
    """What is spread over which devices."""
    return request.param


@pytest.fixture(scope="module")
def kind(setting: Setting) -> Any:
    """A host that can be spread over devices, if the installed TransformerLens has it."""
    found = [kind for kind in KINDS if kind.name == setting.kind]
    return found[0] if found else pytest.skip(f"TransformerLens has no {setting.kind}")


@pytest.fixture(scope="module")
def places(setting: Setting) -> Places:
    """Where the blocks are."""
    return setting.places


@pytest.fixture(scope="module")
def pair(setting: Setting) -> tuple[int, int]:
    """Source and target."""
    return setting.pair


@pytest.fixture(scope="module")
def models(kind: Any, places: Places) -> Iterator[tuple[Any, Any]]:
    """The model on one device, and on two."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (loop, prediction):  # fused steps round otherwise; fake devices have none
            patch.setattr(module, "fuses", lambda device: False)
        with places.open():
            spread = on_two_devices(kind, places, patch)
        yield new_model(kind), spread


@pytest.fixture(scope="module")
def quantizer(models: Any, pair: tuple[int, int]) -> Any:
    """Fitted for a moment on one device."""
    lens = models[0].add_clvq(*pair, n_codes=12, top_k=3)
    fit(lens)
    lens.remove()
    return lens.quantizer


def fit(lens: Any) -> None:
    options = {"kl_weight": 0.5} if lens.host.causal else {}
    lens.fit(words(16, 12, seed=2), n_tokens=256, batch_tokens=128, progress=False, **options)


# ---- what is done with them ----------------------------------------------------------------------


def tokens_for(lens: Any) -> Tensor:
    return TOKENS.to(lens.host.device)


def cached(lens: Any) -> dict[str, Tensor]:
    names = [f"clvq.{lens.name}.{hook}" for hook in HOOKS] + [lens.source, lens.target]
    logits, cache = lens.model.run_with_cache(tokens_for(lens), names_filter=names)
    return {**{name: cache[name] for name in names}, "logits": logits}


def within(*blocks: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The pass with each of some blocks open, and with padding."""

    def run(lens: Any) -> Any:
        found = []
        for block in blocks:
            with block(lens):
                found.append(cached(lens))
                found.append(lens.model(TEXTS, return_type="logits"))
        return found

    return run


def edit(*edits: Any) -> Callable[[Any], Any]:
    return lambda lens: lens.edit(*edits)


def hooked(hook: str, change: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    def change_by_hook(value: Tensor, hook: Any) -> Tensor:
        return change(value)

    def run(lens: Any) -> Tensor:
        hooks = [(f"clvq.{lens.name}.{hook}", change_by_hook)]
        return lens.model.run_with_hooks(tokens_for(lens), fwd_hooks=hooks)

    return run


def generated(lens: Any) -> list[Tensor]:
    found = []
    for block in (lambda: lens.edit(cl.Force(3, at=slice(4, None))), lens.splice):
        for use_cache in (True, False):
            with block():
                tokens = lens.model.generate(
                    tokens_for(lens)[:2, :6],
                    max_new_tokens=4,
                    do_sample=False,
                    use_past_kv_cache=use_cache,
                    stop_at_eos=False,
                    verbose=False,
                )
            found.append(tokens)
    return found


def resumed(lens: Any) -> list[Tensor]:
    tokens = tokens_for(lens)
    attended = torch.ones_like(tokens, dtype=torch.bool)
    target = lens.host.activations(tokens, attended, [lens.target])[lens.target]
    changed = lens.host.logits_with(lens.target, target + 1, tokens, attended)
    return [changed, lens.host.unembed(target[0])]


def gradients(lens: Any) -> Any:
    parameters = dict(lens.model.named_parameters())
    lens.model.zero_grad()
    with lens.splice():
        difference(lens.model(tokens_for(lens))).backward()
    return [p.grad for p in parameters.values() if p.grad is not None]


def with_another_quantizer(lens: Any, analyze: Callable[..., Any]) -> Any:
    """A chain of two; the other one ends where this one begins, or begins at the first block."""
    start = int(lens.source.split(".")[1])
    other = lens.model.add_clvq(max(start - 1, 0), start, name="other", n_codes=6, top_k=2)
    try:
        fit(other)
        found = analyze(lens.model, TEXTS, progress=False)
    finally:
        other.remove()
    return [step.__dict__ for step in found.steps]


MASK = torch.arange(12) % 2 == 0
TENSOR_EDITS = (
    cl.Patch(words(4, 12) % 12),
    cl.Force(2, at=MASK),
    cl.Force(2, at=torch.tensor([0, 3])),
    cl.Force(2, at=lambda tokens: tokens > FIRST_WORD + 10),
    lambda codes, tokens: torch.where(tokens % 2 == 0, 3, codes),
)
# For next tokens; and a bridge of BERT has weights of two names.
OF_CAUSAL_MODELS = ("generate", "sweep of positions", "exact attribution", "gradients")
VERBS: dict[str, Callable[[Any], Any]] = {
    "observe": within(lambda lens: nullcontext()),
    "splice": within(lambda lens: lens.splice()),
    "ablate": within(edit(cl.Ablate([1, 2, 3]))),
    "ablate to the mean": within(edit(cl.Ablate([1, 2, 3], "mean"))),
    "ablate to a random one": within(edit(cl.Ablate([1, 2, 3], "resample"))),
    "restrict and swap": within(edit(cl.Restrict(range(6)), cl.Swap(1, 2))),
    "steer": within(edit(cl.Steer(3, 2.0))),
    "without the error": within(lambda lens: lens.edit(cl.Force(3), error_term=False)),
    "positions": lambda lens: [_logits_under(lens, change) for change in TENSOR_EDITS],
    "change codes": hooked("hook_codes", lambda codes: (codes + 1) % 12),
    "change quantized": hooked("hook_quantized", lambda value: value + 1.0),
    "change recon": hooked("hook_recon", lambda value: value + 1.0),
    "change error": hooked("hook_error", lambda value: value * 0.5),
    "project out": within(
        lambda lens: lens.project_out([1, 2]),
        lambda lens: lens.project_out(_used(lens), place="target"),
        lambda lens: lens.project_out([1, 2], centered=False, at=[2, 3]),
    ),
    "gradients": gradients,
    "generate": generated,
    "resume": resumed,
    "encode": lambda lens: lens.encode(TEXTS),
    "concepts": lambda lens: list(lens.concepts(TEXTS, progress=False)),
    "evaluate": lambda lens: lens.evaluate(TEXTS, progress=False),
    "ablation sweep": lambda lens: cl.ablation_sweep(lens, TEXTS, difference, progress=False),
    "sweep of positions": lambda lens: cl.ablation_sweep(
        lens, TOKENS[0], cl.loss(), by_position=True, progress=False
    ),
    "patching": lambda lens: cl.concept_patching(
        lens, TOKENS[0], TOKENS[1], cl.logit_diff(8, 9), progress=False
    ),
    "attribution": lambda lens: cl.attribution(
        lens, TOKENS[:1], difference, n_steps=3, n_true=3, progress=False
    ),
    "exact attribution": lambda lens: cl.attribution(
        lens, TOKENS[:1], cl.loss(), n_steps=2, n_true=2, exact_decoder=True, progress=False
    ),
    "flow": lambda lens: cl.concept_flow(lens.model, TEXTS, progress=False).frame(),
    "chain": lambda lens: with_another_quantizer(lens, cl.causal_flow),
    "sentence": lambda lens: cl.sentence_flow(lens.model, TEXTS[0], metric=difference).frame(),
}


def _logits_under(lens: Any, change: Any) -> Tensor:
    with lens.edit(change):
        return lens.model(tokens_for(lens))


def _used(lens: Any) -> list[int]:
    return lens.quantizer.usage.argsort(descending=True)[:2].tolist()


# ---- tests ---------------------------------------------------------------------------------------


def assert_alike(found: Any, expected: Any, where: str, *, tolerance: float) -> None:
    """Fails with the name of what differs, wherever in a nest of results it is."""
    if is_dataclass(expected):
        found, expected = vars(found), vars(expected)
    if isinstance(expected, pd.DataFrame):
        found, expected = dict(found), dict(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, list | tuple | pd.Series):
        assert len(found) == len(expected), where
        for index, pair in enumerate(zip(found, expected, strict=True)):
            assert_alike(*pair, f"{where}[{index}]", tolerance=tolerance)
    elif isinstance(expected, Tensor):
        close = torch.allclose(
            found.cpu(), expected, atol=tolerance, rtol=tolerance, equal_nan=True
        )
        assert close, where
    elif isinstance(expected, float | np.ndarray):
        np.testing.assert_allclose(found, expected, tolerance, tolerance, err_msg=where)
    else:
        assert found == expected, where


@pytest.fixture
def lenses(models: Any, quantizer: Any, places: Places) -> Iterator[list[Any]]:
    """The same quantizer on both models."""
    with places.open():
        attached = [model.add_clvq(quantizer=copy.deepcopy(quantizer)) for model in models]
    yield attached
    for lens in attached:
        lens.remove()


@pytest.mark.parametrize("verb", VERBS)
def test_two_devices_give_the_numbers_of_one(kind, lenses, places, verb):
    if verb in OF_CAUSAL_MODELS and not kind.causal:
        pytest.skip("not for encoders")
    expected = VERBS[verb](lenses[0])
    with places.open():
        found = VERBS[verb](lenses[1])
        assert_alike(found, expected, verb, tolerance=1e-6 if places.fake else 1e-3)


def test_a_stream_is_fitted_where_it_enters_the_upper_blocks(models, places):
    """Some hosts move it before that hook point, and some after."""
    point = f"blocks.{N_LOWER}.hook_resid_pre"
    expected = fitted_codebook(models[0], point)
    with places.open():
        found = moved({"codebook": fitted_codebook(models[1], point)}, FIRST)["codebook"]
    assert_alike(found, expected, "fit", tolerance=0.0 if places.fake else 1e-3)


def fitted_codebook(model: Any, source: str) -> Tensor:
    lens = model.add_clvq(source, 3, n_codes=12, top_k=3)
    try:
        fit(lens)
    finally:
        lens.remove()
    return lens.quantizer.codebook.vectors


def test_fitting_on_two_devices_gives_the_quantizer_of_one(models, quantizer, places, pair):
    expected = quantizer.state_dict()
    with places.open():
        lens = models[1].add_clvq(*pair, n_codes=12, top_k=3)
        try:
            fit(lens)
        finally:
            lens.remove()
        found = moved(lens.quantizer.state_dict(), FIRST)
    assert_alike(found, expected, "fit", tolerance=0.0 if places.fake else 1e-3)


def test_a_fit_from_a_store_is_where_the_quantizer_is(models, places, pair, tmp_path):
    """Files are mapped into the memory of the CPU."""
    lenses, options = [], {"n_tokens": 256, "batch_tokens": 128, "progress": False}
    for number, model in enumerate(models):
        with places.open() if number else nullcontext():
            store = cl.cache_activations(
                model, words(16, 12, seed=2), tmp_path / str(number), points=pair, progress=False
            )
            lens = model.add_clvq(*pair, n_codes=12, top_k=3)
            try:
                lens.fit(store, kl_weight=0.5 if lens.host.causal else 0.0, **options)
                lens.evaluate(store, progress=False)
            finally:
                lens.remove()
            lenses.append(lens)
    with places.open():
        found = moved(lenses[1].quantizer.state_dict(), FIRST)
    expected = lenses[0].quantizer.state_dict()
    assert_alike(found, expected, "fit", tolerance=0.0 if places.fake else 1e-3)


def test_activations_and_reconstructions_stay_where_their_layers_are(lenses, places, pair):
    lens = lenses[1]
    source, target = map(places.of, pair)
    with places.open():
        found = cached(lens)
        devices = {name.split(".")[-1]: value.device for name, value in found.items()}
        assert devices == {
            **dict.fromkeys(("hook_encoded", "hook_codes", "hook_quantized"), source),
            **dict.fromkeys(("hook_recon", "hook_error", "hook_resid_post", "logits"), target),
        }
        assert found[lens.source].device == lens.quantizer.device == source
        lens.remove()
        assert torch.equal(found["logits"], lens.model(tokens_for(lens)))


# ---- the fake itself -----------------------------------------------------------------------------


MIXTURES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "add": lambda here, there: here + there,
    "add in place": lambda here, there: here.add_(there),
    "matmul": lambda here, there: there @ here.T,
    "cat": lambda here, there: torch.cat([here, there]),
    "where": lambda here, there: torch.where(here > 0, there, 0.0),
    "equal": torch.equal,
    "index": lambda here, there: here[there[:, 0].long()],
    "assign": lambda here, there: there.__setitem__(torch.tensor([0]), here[:1]),
    "embedding": lambda here, there: torch.nn.functional.embedding(here.long(), there),
    "number of there": lambda here, there: here + there.sum(),
    "module": lambda here, there: torch.nn.Linear(3, 2).to(there.device)(here),
}


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("inference", [False, True], ids=["", "inference"])
def test_the_fake_refuses_to_mix_devices(mixture, inference):
    with second_device(), torch.inference_mode(inference):
        here = torch.ones(2, 3)
        there = here.to(SECOND)
        with pytest.raises(RuntimeError, match="the same device"):
            MIXTURES[mixture](here, there)
        MIXTURES[mixture](here, there.cpu() if mixture != "module" else here)


def test_the_fake_allows_what_torch_allows():
    with second_device():
        here = torch.arange(6.0).reshape(2, 3)
        there = here.to(SECOND)
        for value in (
            *(there + torch.tensor(1.0), there[torch.tensor([1])], there[here > 2], there * 2),
            *(torch.zeros(2, device=SECOND), torch.tensor([1], device=SECOND), here.to(there)),
        ):
            assert value.device == SECOND
        assert torch.equal((there * there).cpu(), here * here)
        assert there.tolist() == here.tolist()
        with pytest.raises(TypeError, match="can't convert cpu:1 device type tensor to numpy"):
            np.asarray(there)
        leaf = here.clone().requires_grad_()
        (leaf.to(SECOND) * there).sum().backward()
        assert leaf.grad.device == FIRST
        assert torch.equal(leaf.grad, here)
