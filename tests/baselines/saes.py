"""SAEs with random weights: stand-ins for those of other libraries, and real ones if installed."""

import importlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

D, N_FEATURES, N_ACTIVE = 16, 48, 4


def randomize(sae: Any, seed: int = 0) -> Any:
    """The same SAE with weights that all matter, and thresholds that some features miss."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in [*sae.named_parameters(), *sae.named_buffers()]:
        if not weight.is_floating_point():
            continue
        draws = torch.randn(weight.shape, generator=generator)
        weight.data.copy_(draws.abs() if "threshold" in name else 0.5 * draws)
    return sae.eval().requires_grad_(False)


def cut(preactivations: Tensor, threshold: Tensor | float = 0.0) -> Tensor:
    return preactivations.relu() * (preactivations > threshold)


def top(activations: Tensor) -> Tensor:
    best = activations.topk(N_ACTIVE, dim=-1)
    return torch.zeros_like(activations).scatter(-1, best.indices, best.values)


class OfSAELens(nn.Module):
    """What an SAE of SAELens has."""

    def __init__(self, architecture: str = "standard", d: int = D, **options: Any) -> None:
        super().__init__()
        self.cfg = SimpleNamespace(
            architecture=lambda: architecture,
            apply_b_dec_to_input="transcoder" not in architecture,
            normalize_activations="none",
            reshape_activations="none",
            metadata=SimpleNamespace(hook_name=None, model_from_pretrained_kwargs=None),
        )
        for name, value in options.items():
            metadata = hasattr(self.cfg.metadata, name)
            setattr(self.cfg.metadata if metadata else self.cfg, name, value)
        if architecture == "topk":
            self.cfg.k = N_ACTIVE
        self.W_enc = nn.Parameter(torch.empty(d, N_FEATURES))
        self.W_dec = nn.Parameter(torch.empty(N_FEATURES, d))
        self.b_dec = nn.Parameter(torch.empty(d))
        names = ("b_gate", "b_mag", "r_mag") if architecture == "gated" else ("b_enc", "threshold")
        for name in names:
            setattr(self, name, nn.Parameter(torch.empty(N_FEATURES)))
        randomize(self)

    def encode(self, x: Tensor) -> Tensor:
        architecture = self.cfg.architecture()
        self.mean, self.scale = torch.zeros(()), torch.ones(())
        if self.cfg.normalize_activations == "layer_norm":
            self.mean, self.scale = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
            x = (x - self.mean) / (self.scale + 1e-5)
        if self.cfg.normalize_activations == "constant_norm_rescale":
            self.scale = x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
            x = x / self.scale
        a = (x - self.b_dec * self.cfg.apply_b_dec_to_input) @ self.W_enc
        if architecture == "gated":
            return (a * self.r_mag.exp() + self.b_mag).relu() * (a + self.b_gate > 0)
        a = a + self.b_enc
        if getattr(self.cfg, "rescale_acts_by_decoder_norm", False):
            a = a * self.W_dec.norm(dim=-1)
        if architecture == "topk":
            return top(a.relu())
        return cut(a, self.threshold if architecture.startswith("jumprelu") else 0.0)

    def decode(self, activations: Tensor) -> Tensor:
        """Of the tokens that were encoded last, as SAELens remembers their norm."""
        if getattr(self.cfg, "rescale_acts_by_decoder_norm", False):
            activations = activations / self.W_dec.norm(dim=-1)
        output = activations @ self.W_dec + self.b_dec
        is_transcoder = "transcoder" in self.cfg.architecture()
        return output if is_transcoder else output * self.scale + self.mean


class OfMatrices(nn.Module):
    """What ``JumpReluAutoEncoder`` has; with groups, what ``MatryoshkaBatchTopKSAE`` has."""

    def __init__(self, *, groups: bool = False, subtracts: bool = False) -> None:
        super().__init__()
        self.W_enc = nn.Parameter(torch.empty(D, N_FEATURES))
        self.W_dec = nn.Parameter(torch.empty(N_FEATURES, D))
        self.b_enc = nn.Parameter(torch.empty(N_FEATURES))
        self.b_dec = nn.Parameter(torch.empty(D))
        self.threshold = nn.Parameter(torch.empty(N_FEATURES))
        self.subtracts = subtracts or groups
        if groups:
            self.group_sizes, self.active_groups = torch.tensor([16, 32]), 2
        else:
            self.apply_b_dec_to_input = subtracts
        randomize(self)

    def encode(self, x: Tensor) -> Tensor:
        return cut((x - self.b_dec * self.subtracts) @ self.W_enc + self.b_enc, self.threshold)

    def decode(self, activations: Tensor) -> Tensor:
        return activations @ self.W_dec + self.b_dec


class OfModules(nn.Module):
    """What ``AutoEncoder`` has, or with ``bias=None`` ``AutoEncoderNew``."""

    def __init__(self, bias: str | None = "bias") -> None:
        super().__init__()
        self.encoder = nn.Linear(D, N_FEATURES)
        self.decoder = nn.Linear(N_FEATURES, D, bias=bias is None)
        self.center = bias
        if bias is not None:
            setattr(self, bias, nn.Parameter(torch.empty(D)))
        randomize(self)

    def preactivations(self, x: Tensor) -> Tensor:
        return self.encoder(x - (0 if self.center is None else getattr(self, self.center)))

    def encode(self, x: Tensor) -> Tensor:
        return self.preactivations(x).relu()

    def decode(self, activations: Tensor) -> Tensor:
        return self.decoder(activations) + (
            0 if self.center is None else getattr(self, self.center)
        )


class TopK(OfModules):
    """What ``AutoEncoderTopK`` has: a threshold that its ``encode`` does not use by default."""

    def __init__(self) -> None:
        super().__init__("b_dec")
        self.k = torch.tensor(N_ACTIVE)
        self.threshold = torch.tensor(6.0)  # some of the largest features miss it

    def encode(self, x: Tensor, use_threshold: bool = False) -> Tensor:
        preactivations = self.preactivations(x)
        return cut(preactivations, self.threshold) if use_threshold else top(preactivations.relu())


class BatchTopK(TopK):
    """What ``BatchTopKSAE`` has: the same weights, and a threshold that it uses."""

    def encode(self, x: Tensor, use_threshold: bool = True) -> Tensor:
        return super().encode(x, use_threshold)


class GatedModules(OfModules):
    """What ``GatedAutoEncoder`` has."""

    def __init__(self) -> None:
        super().__init__("decoder_bias")
        self.encoder.bias = None
        for name in ("r_mag", "gate_bias", "mag_bias"):
            setattr(self, name, nn.Parameter(torch.empty(N_FEATURES)))
        randomize(self, seed=1)

    def encode(self, x: Tensor) -> Tensor:
        a = self.preactivations(x)
        return (a * self.r_mag.exp() + self.mag_bias).relu() * (a + self.gate_bias > 0)


class OfSparsify(nn.Module):
    """What a ``SparseCoder`` has."""

    def __init__(self, d: int = D, *, transcode: bool = False) -> None:
        super().__init__()
        self.cfg = SimpleNamespace(transcode=transcode, k=N_ACTIVE)
        self.encoder = nn.Linear(d, N_FEATURES)
        self.W_dec = nn.Parameter(torch.empty(N_FEATURES, d))
        self.b_dec = nn.Parameter(torch.empty(d))
        randomize(self)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = x if self.cfg.transcode else x - self.b_dec
        activations = self.encoder(x).relu()
        best = activations.topk(N_ACTIVE, dim=-1)
        return best.values, best.indices, activations

    def decode(self, values: Tensor, indices: Tensor) -> Tensor:
        return (values.unsqueeze(-1) * self.W_dec[indices]).sum(-2) + self.b_dec


STAND_INS = {
    "SAELens": OfSAELens,
    "SAELens, nothing subtracted": lambda: OfSAELens(apply_b_dec_to_input=False),
    "SAELens, layer norm": lambda: OfSAELens(normalize_activations="layer_norm"),
    "SAELens, constant norm": lambda: OfSAELens(normalize_activations="constant_norm_rescale"),
    "SAELens, jumprelu": lambda: OfSAELens("jumprelu"),
    "SAELens, gated": lambda: OfSAELens("gated"),
    "SAELens, topk": lambda: OfSAELens("topk"),
    "SAELens, topk, rescaled": lambda: OfSAELens("topk", rescale_acts_by_decoder_norm=True),
    "SAELens, transcoder": lambda: OfSAELens("transcoder"),
    "SAELens, jumprelu transcoder": lambda: OfSAELens("jumprelu_transcoder"),
    "JumpReluAutoEncoder": OfMatrices,
    "JumpReluAutoEncoder, subtracting": lambda: OfMatrices(subtracts=True),
    "MatryoshkaBatchTopKSAE": lambda: OfMatrices(groups=True),
    "AutoEncoder": OfModules,
    "AutoEncoderNew": lambda: OfModules(None),
    "AutoEncoderTopK": TopK,
    "BatchTopKSAE": BatchTopK,
    "GatedAutoEncoder": GatedModules,
    "sparsify": OfSparsify,
    "sparsify, transcoder": lambda: OfSparsify(transcode=True),
}


def real_sae_lens(architecture: str, d: int = D, **options: Any) -> Any:
    """An SAE of the installed SAELens, with random weights."""
    sae_lens = pytest.importorskip("sae_lens", reason="SAELens is not installed")
    registry = importlib.import_module("sae_lens.registry")
    kind, config = registry.get_sae_class(architecture)
    metadata = {name: options.pop(name) for name in ("hook_name",) if name in options}
    sizes: dict[str, Any] = {"d_in": d, "d_sae": N_FEATURES}
    if "transcoder" in architecture:
        sizes |= {"d_out": d, "apply_b_dec_to_input": False}
    if architecture == "topk":
        sizes["k"] = N_ACTIVE
    metadata = sae_lens.saes.sae.SAEMetadata(**metadata)
    return randomize(kind(config(**sizes, **options, metadata=metadata)))


def real_dictionary(module: str, name: str, *sizes: Any) -> Any:
    """An SAE of the installed dictionary_learning, with random weights."""
    reason = "dictionary_learning is not installed"
    package = pytest.importorskip(f"dictionary_learning.{module}", reason=reason)
    return randomize(getattr(package, name)(D, N_FEATURES, *sizes))


def real_sparsify(**options: Any) -> Any:
    """An SAE of the installed sparsify, with random weights."""
    package = pytest.importorskip("sparsify.sparse_coder", reason="sparsify is not installed")
    config = package.SparseCoderConfig(num_latents=N_FEATURES, k=N_ACTIVE, **options)
    return randomize(package.SparseCoder(D, config))


REAL = {
    "standard": lambda: real_sae_lens("standard"),
    "nothing subtracted": lambda: real_sae_lens("standard", apply_b_dec_to_input=False),
    "layer norm": lambda: real_sae_lens("standard", normalize_activations="layer_norm"),
    "constant norm": lambda: real_sae_lens(
        "standard", normalize_activations="constant_norm_rescale"
    ),
    "jumprelu": lambda: real_sae_lens("jumprelu"),
    "gated": lambda: real_sae_lens("gated"),
    "gated, layer norm": lambda: real_sae_lens("gated", normalize_activations="layer_norm"),
    "topk": lambda: real_sae_lens("topk"),
    "topk, rescaled": lambda: real_sae_lens("topk", rescale_acts_by_decoder_norm=True),
    "transcoder": lambda: real_sae_lens("transcoder"),
    "skip transcoder": lambda: real_sae_lens("skip_transcoder"),
    "jumprelu transcoder": lambda: real_sae_lens("jumprelu_transcoder"),
    "AutoEncoder": lambda: real_dictionary("dictionary", "AutoEncoder"),
    "AutoEncoderNew": lambda: real_dictionary("dictionary", "AutoEncoderNew"),
    "GatedAutoEncoder": lambda: real_dictionary("dictionary", "GatedAutoEncoder"),
    "JumpReluAutoEncoder": lambda: real_dictionary("dictionary", "JumpReluAutoEncoder"),
    "AutoEncoderTopK": lambda: real_dictionary("trainers.top_k", "AutoEncoderTopK", N_ACTIVE),
    "BatchTopKSAE": lambda: real_dictionary("trainers.batch_top_k", "BatchTopKSAE", N_ACTIVE),
    "MatryoshkaBatchTopKSAE": lambda: real_dictionary(
        "trainers.matryoshka_batch_top_k", "MatryoshkaBatchTopKSAE", N_ACTIVE, [16, 32]
    ),
    "sparsify": real_sparsify,
    "sparsify, groupmax": lambda: real_sparsify(activation="groupmax"),
    "sparsify, transcoder": lambda: real_sparsify(transcode=True),
}
