"""How to speak to TransformerBridge, on TransformerLens 3 and 4."""

import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any, ClassVar

from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformer_lens.hook_points import HookPoint
from transformers import Cache

from clvq_lens.errors import HookNotFoundError
from clvq_lens.host.compiled import never_compiled
from clvq_lens.host.protocol.base import (
    IN_BLOCK,
    POST_NORM,
    PRE_NORM,
    HostProtocol,
    PassContext,
    Replacement,
    silenced,
)
from clvq_lens.host.threads import PerThread

_OF_ENCODERS = ("ForMaskedLM", "ForPreTraining", "ForNextSentencePrediction")


_TURN = threading.RLock()


class _BridgePass(PerThread):
    """What the model was told in the pass under way."""

    def __init__(self) -> None:
        self.mask: Bool[Tensor, "b keys"] | None = None
        self.n_past = 0
        self.has_tokens = True


class BridgeProtocol(HostProtocol):
    """`TransformerBridge`: TransformerLens' names on a Hugging Face model."""

    moves_before_block = False
    _USUAL: ClassVar = {
        "hook_in": "hook_resid_pre",
        "hook_out": "hook_resid_post",
        "attn.hook_out": "hook_attn_out",
        "mlp.hook_out": "hook_mlp_out",
    }

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._has_seen_output = False
        self._pass = _BridgePass()

    def turn(self) -> AbstractContextManager[Any]:
        """Components of a bridge keep tensors of the pass under way, whichever thread it is of."""
        return _TURN

    @property
    def causal(self) -> bool:
        """Whether a token sees earlier tokens only."""
        # TransformerLens 3.9 says "causal" of BERT, too.
        architecture = str(self.cfg.architecture)
        return self.cfg.attention_dir == "causal" and not architecture.endswith(_OF_ENCODERS)

    @property
    def order(self) -> tuple[str, ...]:
        """The order within a block."""
        return PRE_NORM if self.causal else POST_NORM

    @property
    def kind(self) -> str:
        """The class of the model, for people."""
        mode = " in compatibility mode" if self.model.compatibility_mode else ""
        return f"{type(self.model).__name__}{mode}"

    @property
    def model_name(self) -> str:
        """As the Hugging Face model calls itself, where it was not loaded by name."""
        name = str(self.cfg.model_name)
        if name not in ("external", "None", ""):
            return name
        config = getattr(self.model.original_model, "config", None)
        return getattr(config, "_name_or_path", "") or str(self.cfg.architecture)

    @property
    def layer_norm_folded(self) -> bool:
        """A processed bridge still has its layer norms; folding leaves them weights of one."""
        if not self.model._weights_processed:
            return super().layer_norm_folded
        weight = getattr(getattr(self.model.blocks[0], "ln1", None), "weight", None)
        return weight is None or bool((weight == 1).all())

    @property
    def processing(self) -> tuple[Any, ...]:
        """Changes whenever the weights are processed."""
        return ("processed" if self.model._weights_processed else "unprocessed",)

    @property
    def bos(self) -> tuple[str, bool]:
        """The tokenizer of an encoder knows by itself."""
        return super().bos if self.causal else ("", False)

    def usual_name(self, name: str) -> str:
        """The name that `HookedTransformer` uses, for what is the same hook point here."""
        parts = IN_BLOCK.fullmatch(name)
        if parts is None:
            return name
        block, point = parts.groups()
        if point == "hook_resid_mid":
            raise HookNotFoundError(
                f"On a {type(self.model).__name__}, {name!r} is only the input of the MLP: the "
                f"residual stream does not pass it, so what is written there is lost. Pass "
                f"'{block}hook_resid_pre', '{block}hook_resid_post' or a layer number."
            )
        usual, points = f"{block}{self._USUAL.get(point)}", self.model.hook_dict
        return usual if points.get(usual) is points[name] else name

    def register(self, points: Mapping[str, HookPoint]) -> None:
        """Makes them attributes of the model, where its own search for hook points finds them.

        `enable_compatibility_mode` throws the registry away and searches again; and add_hook of
        TransformerLens 3 goes from attribute to attribute. They are in no list of modules, so
        that parameters and state stay the host's own.
        """
        for name, point in points.items():
            point.name = name
            self.model.__dict__[name] = self.model._hook_registry[name] = point
        self._rebuild_paths()

    def unregister(self, names: Sequence[str]) -> None:
        """Takes them away again."""
        for name in names:
            self.model.__dict__.pop(name, None)
            self.model._hook_registry.pop(name, None)
        self._rebuild_paths()

    def _rebuild_paths(self) -> None:
        """Attributes of attributes: model.clvq, and so on down to each hook point."""
        attributes = self.model.__dict__
        attributes.pop("clvq", None)
        for name in [name for name in attributes if name.startswith("clvq.")]:
            *path, last = name.split(".")
            place = attributes.setdefault(path[0], SimpleNamespace())
            for part in path[1:]:
                place = vars(place).setdefault(part, SimpleNamespace())
            setattr(place, last, attributes[name])

    def discards(self, block: int) -> bool:
        """With start_at_layer, TransformerLens 4 runs the blocks below on what is meant for it."""
        start = getattr(self.model.blocks[0], "_start_at_layer_idx", None)
        return start is not None and block < start

    def watch(self) -> list[RemovableHandle]:
        """Blocks are told a mask for every pair of positions; the model, which are padding."""
        return [self.model.original_model.register_forward_pre_hook(self._see, with_kwargs=True)]

    @never_compiled
    def _see(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        mask, past = kwargs.get("attention_mask"), kwargs.get("past_key_values")
        self._pass.mask = mask.bool() if mask is not None and mask.ndim == 2 else None
        self._pass.n_past = 0 if past is None else past.get_seq_length()
        self._pass.has_tokens = kwargs.get("inputs_embeds") is None

    def context(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PassContext:
        """The mask of the pass, and the cache of all layers, which lives as long as its text."""
        caches = (value for value in (*args, *kwargs.values()) if isinstance(value, Cache))
        cache, now = next(caches, None), self._pass
        return PassContext(now.mask, cache, now.n_past, has_tokens=now.has_tokens)

    def run(
        self,
        tokens: Int[Tensor, "b pos"],
        attended: Bool[Tensor, "b pos"],
        *,
        n_blocks: int | None = None,
        instead: Replacement | None = None,
    ) -> Any:
        """Logits; lower blocks are skipped when their result is given."""
        if instead is not None and not self._has_seen_output:
            with silenced(self.model):  # one token, to see what blocks give
                super().run(tokens[:1, :1], attended[:1, :1], n_blocks=1)
        return super().run(tokens, attended, n_blocks=n_blocks, instead=instead)

    def _forward(self, tokens: Tensor, attended: Tensor) -> Any:
        options = {"use_cache": False} if self.causal else {"attention_mask": attended.long()}
        blocks = list(self.model.blocks)
        handles = [block.register_forward_hook(_forget_pattern, prepend=True) for block in blocks]
        handles.append(blocks[0].register_forward_hook(self._see_output, prepend=True))
        try:
            return self.model(tokens, return_type="logits", **options)
        finally:
            for handle in handles:
                handle.remove()

    def _see_output(self, module: Any, args: Any, output: Any) -> None:
        self._has_seen_output = True
        self._output_length = len(output) if isinstance(output, tuple) else None


def _forget_pattern(block: Any, args: Any, output: Any) -> None:
    """Bridges of GPT-2 and NeoX keep the attention pattern of every layer, and never read it."""
    attention: Any = getattr(block, "attn", None)
    if getattr(attention, "_pattern", None) is not None:
        attention._pattern = None
