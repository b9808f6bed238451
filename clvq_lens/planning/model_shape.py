"""The size of a model: of one that is loaded, or of one of which only the configuration is."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from clvq_lens.errors import ConfigError, ModelLoadError
from clvq_lens.host.host import Host
from clvq_lens.host.loading import check_dtype


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """How large a model is.

    Attributes:
        name: Its name.
        n_layers: Number of blocks.
        d_model: Width of the residual stream.
        n_parameters: Parameters in all.
        n_block_parameters: Parameters of all blocks together.
        d_vocab: Size of the vocabulary.
        dtype: Dtype of its weights.
    """

    name: str
    n_layers: int
    d_model: int
    n_parameters: int
    n_block_parameters: int
    d_vocab: int
    dtype: torch.dtype

    @property
    def size_bytes(self) -> int:
        """Memory that its weights take."""
        return self.n_parameters * self.dtype.itemsize

    @property
    def head_flops(self) -> int:
        """Operations that the logits of a token take."""
        return 2 * self.d_model * self.d_vocab

    def flops(self, n_layers: int, context: int) -> float:
        """Operations that a token takes up to some block.

        Two for each parameter, and four for each dimension of every earlier token that is attended
        to, of which half the context is there on average.

        Args:
            n_layers: How many blocks are computed.
            context: Tokens of a sequence.
        """
        block = self.n_block_parameters / self.n_layers
        return n_layers * (2 * block + 4 * self.d_model * context / 2)


def shape_of(model: Any, *, dtype: str | None = None) -> ModelShape:
    """The size of a model.

    Args:
        model: A TransformerLens model; or a name or folder, of which only the configuration is
            read, so that a model may be far larger than this machine.
        dtype: Dtype to count its weights in; None: that of a loaded model, and float32, in which
            `load_pretrained` loads, for one that is only named.

    Raises:
        ConfigError: If the dtype is unknown, or the model has no blocks.
        ModelLoadError: If there is no configuration of that name.
    """
    if isinstance(model, str):
        return _shape_of_name(model, check_dtype(dtype or "float32"))
    host = Host(model)
    modules = dict(host.model.named_modules())
    blocks = modules.get("blocks") or _blocks(host.model, host.cfg.n_layers)
    return ModelShape(
        name=str(host.cfg.model_name),
        n_layers=host.cfg.n_layers,
        d_model=host.cfg.d_model,
        n_parameters=_n_parameters(host.model),
        n_block_parameters=_n_parameters(blocks),
        d_vocab=host.cfg.d_vocab_out,
        dtype=check_dtype(dtype) if dtype is not None else host.dtype,
    )


def _shape_of_name(name: str, dtype: torch.dtype) -> ModelShape:
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(name).get_text_config()
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"There is no configuration of {name!r}: {error}. Pass a name on the Hub, a folder, or "
            f"a loaded model."
        ) from error
    with torch.device("meta"):  # shapes without memory
        model = AutoModel.from_config(config)
    n_layers = config.num_hidden_layers
    n_head = config.vocab_size * config.hidden_size * (not config.tie_word_embeddings)
    return ModelShape(
        name=name,
        n_layers=n_layers,
        d_model=config.hidden_size,
        n_parameters=_n_parameters(model) + n_head,  # of which `AutoModel` has no head
        n_block_parameters=_n_parameters(_blocks(model, n_layers)),
        d_vocab=config.vocab_size,
        dtype=dtype,
    )


def _blocks(model: nn.Module, n_layers: int) -> nn.Module:
    """The list of blocks: the largest list of that length."""
    lists: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == n_layers:
            lists.append(module)
    if not lists:
        raise ConfigError("The model has no list of blocks. Pass a language model.")
    return max(lists, key=_n_parameters)


def _n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
