"""Really trained weights, through every route that loads them: equal loss, and equal codes."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import clvq_lens as cl
from clvq_lens.errors import HostMismatchError
from clvq_lens.host.loading import load_pretrained
from tests.hosts import MAJOR

_LOSS_STORIES = 20


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder / "hf")


def _hf(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder / "hf").eval()


def _hooked(folder: Path, *, processed: bool = False) -> Any:
    from safetensors.torch import load_file
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    cfg = json.loads((folder / "hooked/cfg.json").read_text())
    model = HookedTransformer(
        HookedTransformerConfig(**cfg, device="cpu"),
        tokenizer=_tokenizer(folder),
        default_padding_side="right",
    )
    weights = load_file(folder / "hooked/model.safetensors")
    if processed:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # RMS norms cannot be centered
            model.load_and_process_state_dict(weights)
    else:
        model.load_state_dict(weights, strict=False)
    return model


def _booted(folder: Path) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(
        "llama", hf_model=_hf(folder), tokenizer=_tokenizer(folder), device="cpu"
    )


def _compatible(folder: Path) -> Any:
    model = _booted(folder)
    model.enable_compatibility_mode(disable_warnings=True)
    return model


HOOKED: dict[str, Callable[[Path], Any]] = {
    "HookedTransformer": _hooked,
    "HookedTransformer, processed": lambda folder: _hooked(folder, processed=True),
}
ROUTES: dict[str, Callable[[Path], Any]] = {
    **(HOOKED if MAJOR == 3 else {}),
    "boot_transformers": _booted,
    "boot_transformers, compatibility mode": _compatible,
    "from_hf": lambda folder: cl.from_hf(_hf(folder), _tokenizer(folder)),
    "load_pretrained": lambda folder: load_pretrained(str(folder / "hf")),
}
PROCESSED = {"HookedTransformer, processed", "boot_transformers, compatibility mode"}


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "models" / "stories260K"


@pytest.fixture(scope="module", params=ROUTES)
def route(request: pytest.FixtureRequest, folder: Path) -> tuple[str, Any]:
    """Each route's name and model."""
    return request.param, ROUTES[request.param](folder).eval()


@pytest.fixture(scope="module")
def expected_loss(folder: Path, stories: list[str]) -> float:
    """Of Hugging Face's own model, in nats per token."""
    model, tokenizer = _hf(folder), _tokenizer(folder)
    return _loss(lambda tokens: model(tokens).logits, tokenizer, stories)


@torch.no_grad()
def _loss(
    logits: Callable[[torch.Tensor], torch.Tensor], tokenizer: Any, texts: list[str]
) -> float:
    losses = []
    for text in texts[:_LOSS_STORIES]:
        tokens = torch.tensor([tokenizer(text)["input_ids"][:512]])
        losses.append(torch.nn.functional.cross_entropy(logits(tokens)[0, :-1], tokens[0, 1:]))
    return float(torch.stack(losses).mean())


@pytest.fixture(scope="module")
def saved(folder: Path, stories: list[str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """For raw and for processed weights, a quantizer and its codes of held-out stories."""
    found = {}
    for processed in (False, True):
        name = next(name for name in ROUTES if (name in PROCESSED) == processed)
        lens = ROUTES[name](folder).eval().add_clvq(1, 3, n_codes=64)
        lens.fit(stories[:100], n_tokens=20_000, long_texts="split", progress=False)
        found[processed] = (lens.save(tmp_path_factory.mktemp("saved")), _codes(lens, stories))
    return found


def _codes(lens: cl.Lens, stories: list[str]) -> torch.Tensor:
    encoding = lens.encode(stories[100:150], long_texts="split")
    return encoding.codes[encoding.mask]


def test_every_route_has_the_loss_of_the_weights(route, expected_loss, stories):
    _, model = route
    assert abs(_loss(model, model.tokenizer, stories) - expected_loss) < 1e-5


def test_texts_are_tokenized_alike_on_every_route(route, folder, stories):
    _, model = route
    texts = [story[:200] for story in stories[:5]]  # within the context
    wanted = [_tokenizer(folder)(text)["input_ids"] for text in texts]
    lens = model.add_clvq(1, 3, name="tokens", n_codes=8)
    assert [tokens.tolist() for tokens in lens.host.vocabulary.tokenize(texts)] == wanted
    lens.remove()


@pytest.mark.slow
def test_a_saved_quantizer_gives_its_codes_on_every_route(route, saved, stories):
    name, model = route
    path, expected = saved[name in PROCESSED]
    lens = model.add_clvq(quantizer=cl.load(path))
    codes = _codes(lens, stories)
    lens.remove()
    assert len(codes) > 10_000
    assert (codes == expected).float().mean() >= 0.999


@pytest.mark.slow
def test_weights_processed_otherwise_are_refused_on_every_route(route, saved):
    name, model = route
    path, _ = saved[name not in PROCESSED]
    with pytest.raises(HostMismatchError, match=r"layer_norm_folded: .* Load the model"):
        model.add_clvq(quantizer=cl.load(path))
