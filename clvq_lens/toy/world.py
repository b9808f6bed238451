"""The toy model from the files of the package, together with texts it was not trained on."""

import json
import warnings
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from clvq_lens.errors import ConfigError, FileFormatError, MissingDependencyError
from clvq_lens.host.loading import hooked_class
from clvq_lens.toy.architecture import Architecture
from clvq_lens.toy.as_bridge import build_bridge
from clvq_lens.toy.labeling import generate

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer
    from transformer_lens.model_bridge import TransformerBridge

HOSTS = ("HookedTransformer", "TransformerBridge")
DATA = Path(__file__).parent / "data"


class ToyWorld(NamedTuple):
    """What ``load`` gives: ``model, texts = load()``.

    Attributes:
        model: The model, in eval mode and with its tokenizer.
        texts: Texts that it was not trained on.
    """

    model: "HookedTransformer | TransformerBridge"
    texts: list[str]

    # A tuple would show all texts and every module of the model.
    def __repr__(self) -> str:
        return f"ToyWorld({self._headline})"

    def _repr_html_(self) -> str:
        begin = f"<p><b>ToyWorld</b>: {escape(self._headline)}</p>"
        if not self.texts:
            return begin
        return f"{begin}<p>The first text: <i>{escape(self.texts[0])}</i></p>"

    @property
    def _headline(self) -> str:
        layers = f"{type(self.model).__name__} with {self.model.cfg.n_layers} layers"
        return f"{layers}, {len(self.texts):,} texts"


def load(
    n_texts: int = 2000,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    host: str | None = None,
) -> ToyWorld:
    """A language model of a small world with known concepts, and texts of that world.

    Nothing is downloaded. The model is in eval mode and has its tokenizer: BOS, then one token
    per word. ``token_labels(texts)`` gives the true concept of each word.

    Args:
        n_texts: Number of texts.
        seed: Random seed for the texts; the model is always the same.
        device: Where the model is put.
        host: Class of the model, "HookedTransformer" or "TransformerBridge", which compute the
            same; None: the first of them that the installed transformer_lens has.

    Returns:
        ``(model, texts)``. The texts are held out: the training texts were drawn separately.

    Raises:
        ConfigError: If there is no such host.
        MissingDependencyError: If the installed transformer_lens has no HookedTransformer, and
            ``host`` asks for it.

    Example:
        >>> model, texts = load(n_texts=10)
        >>> model.cfg.n_layers, len(texts)
        (4, 10)
    """
    if host is None:
        has_hooked = hooked_class("HookedTransformer") is not None  # version 4 removed it
        host = "HookedTransformer" if has_hooked else "TransformerBridge"
    if host not in HOSTS:
        raise ConfigError(f"The toy model has no host {host!r}. Pass one of {HOSTS}, or None.")
    config = json.loads((DATA / "config.json").read_text())["model"]
    tokenizer, weights = load_tokenizer(DATA), load_file(DATA / "model.safetensors")
    if host == "TransformerBridge":
        model = build_bridge(config, tokenizer, weights, device)
    else:
        model = build_model(config, tokenizer, device).eval()
        fill(model, weights)
    return ToyWorld(model, generate(n_texts, seed=seed))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The word-level tokenizer: special tokens, then every word of the world."""
    return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


def build_model(
    config: Architecture,
    tokenizer: PreTrainedTokenizerFast,
    device: str | torch.device,
    *,
    init_weights: bool = False,
) -> "HookedTransformer":
    """An empty HookedTransformer: the one place that knows how it is built."""
    if hooked_class("HookedTransformer") is None:
        raise MissingDependencyError(
            "The installed transformer-lens has no HookedTransformer (version 4 removed it), which "
            "host='HookedTransformer' and the training of the toy model need. Leave host out, or "
            "run: pip install 'transformer-lens>=3.9,<4'"
        )
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    cfg = HookedTransformerConfig(**config, device=str(device), init_weights=init_weights)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="HookedTransformer is deprecated", category=DeprecationWarning
        )
        return HookedTransformer(cfg, tokenizer=tokenizer)


def fill(model: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy ``weights`` into the parameters; masks and other buffers are rebuilt, not stored."""
    # load_state_dict would ask for the buffers, and its errors do not say what to do.
    parameters = dict(model.named_parameters())
    if parameters.keys() != weights.keys():
        names = ", ".join(sorted(parameters.keys() ^ weights.keys()))
        raise FileFormatError(
            f"The toy model's file and the model differ in: {names}. Reinstall clvq-lens, or "
            f"train the model again: python -m clvq_lens.toy.train"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
