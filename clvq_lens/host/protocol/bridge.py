"""The protocol of TransformerBridge, on TransformerLens 3 and 4."""

import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any, ClassVar

from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformer_lens.hook_points import HookPoint
from transformers import Cache, DynamicCache

from clvq_lens.errors import HookNotFoundError
from clvq_lens.host.compiled import never_compiled
from clvq_lens.host.placement import quantization_of
from clvq_lens.host.points import IN_BLOCK
from clvq_lens.host.protocol.base import (
    POST_NORM,
    PRE_NORM,
    HostProtocol,
    KnownStart,
    PassContext,
    silenced,
)
from clvq_lens.host.threads import PerThread

_OF_ENCODERS = ("ForMaskedLM", "ForPreTraining", "ForNextSentencePrediction")
_TURN = threading.RLock()  # one for all bridges: a lock of their own could not be copied


class _BridgePass(PerThread):
    """What the model was told about the running pass."""

    def __init__(self) -> None:
        self.mask: Bool[Tensor, "b keys"] | None = None
        self.n_past = 0
        self.has_tokens = True


class BridgeProtocol(HostProtocol):
    """`TransformerBridge`, which puts TransformerLens' names on a Hugging Face model."""

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
        """While open, one of our passes may run, and only one at a time."""
        # Components of a bridge keep tensors of a pass, and those of two threads would mix.
        return _TURN

    @property
    def causal(self) -> bool:
        """Whether a token sees only earlier tokens."""
        # TransformerLens 3.9 says "causal" for BERT, too.
        architecture = str(self.cfg.architecture)
        return self.cfg.attention_dir == "causal" and not architecture.endswith(_OF_ENCODERS)

    @property
    def order(self) -> tuple[str, ...]:
        """Beginnings of names within a block, as a pass meets them."""
        return PRE_NORM if self.causal else POST_NORM

    @property
    def kind(self) -> str:
        """The class of the model, in words for people."""
        mode = " in compatibility mode" if self.model.compatibility_mode else ""
        return f"{type(self.model).__name__}{mode}"

    @property
    def model_name(self) -> str:
        """The name that it was loaded by, or else the Hugging Face model's name for itself."""
        name = str(self.cfg.model_name)
        if name not in ("external", "None", ""):
            return name
        config = getattr(self.model.original_model, "config", None)
        return getattr(config, "_name_or_path", "") or str(self.cfg.architecture)

    @property
    def layer_norm_folded(self) -> bool:
        """Whether weights of layer norms were folded into the layers after them."""
        if not self.model._weights_processed:
            return super().layer_norm_folded
        # A processed bridge still has its layer norms; folding leaves them weights of one.
        weight = getattr(getattr(self.model.blocks[0], "ln1", None), "weight", None)
        return weight is None or bool((weight == 1).all())

    @property
    def quantization(self) -> str | None:
        """How the weights are quantized, in words for people; None if they are not."""
        return quantization_of(getattr(self.model.original_model, "config", None))

    @property
    def processing(self) -> tuple[Any, ...]:
        """How the weights are processed, so that later processing is noticed."""
        return ("processed" if self.model._weights_processed else "unprocessed",)

    @property
    def bos(self) -> tuple[str, bool]:
        """What to put before each text, and whether to remove what the tokenizer puts there."""
        # The tokenizer of an encoder frames texts by itself.
        return super().bos if self.causal else ("", False)

    def usual_name(self, name: str) -> str:
        """The name that `HookedTransformer` has for a hook point, if the bridge knows it too."""
        parts = IN_BLOCK.fullmatch(name)
        if parts is None:
            return name
        block, _, point = parts.groups()
        if point == "hook_resid_mid":
            raise HookNotFoundError(
                f"On a {type(self.model).__name__}, {name!r} is only the input of the MLP: the "
                f"residual stream does not pass it, so what is written there is lost. Pass "
                f"'{block}hook_resid_pre', '{block}hook_resid_post' or a layer number."
            )
        usual = f"{block}{self._USUAL.get(point)}"
        points = self.model.hook_dict
        # Only where both names stand for one object: elsewhere they are two places.
        return usual if points.get(usual) is points[name] else name

    def register(self, points: Mapping[str, HookPoint]) -> None:
        """Makes hook points attributes of the model, where its own search for them looks.

        `enable_compatibility_mode` throws the registry away and searches again; and add_hook of
        TransformerLens 3 goes from attribute to attribute. The points are in no list of modules,
        so that parameters and state stay the host's own.
        """
        for name, point in points.items():
            point.name = name
            self.model.__dict__[name] = self.model._hook_registry[name] = point
        self._rebuild_paths()

    def unregister(self, names: Sequence[str]) -> None:
        """Takes hook points away from the model again."""
        for name in names:
            self.model.__dict__.pop(name, None)
            self.model._hook_registry.pop(name, None)
        self._rebuild_paths()

    def _rebuild_paths(self) -> None:
        """Makes a path of attributes to each hook point: model.clvq, then its name, and so on."""
        attributes = self.model.__dict__
        attributes.pop("clvq", None)
        for name in list(attributes):  # a list, because the loop adds attributes
            if not name.startswith("clvq."):
                continue
            *path, last = name.split(".")
            place = attributes.setdefault(path[0], SimpleNamespace())
            for part in path[1:]:
                place = vars(place).setdefault(part, SimpleNamespace())
            setattr(place, last, attributes[name])

    def discards(self, block: int) -> bool:
        """Whether the running pass throws away what this block computes."""
        # With start_at_layer, TransformerLens 4 runs the blocks below on the same input.
        start = getattr(self.model.blocks[0], "_start_at_layer_idx", None)
        return start is not None and block < start

    def watch(self) -> list[RemovableHandle]:
        """Adds a hook that sees the padding mask and the cache; the caller removes it."""
        # Blocks only get a mask of pairs of positions; the model gets the one of padding.
        return [self.model.original_model.register_forward_pre_hook(self._see, with_kwargs=True)]

    @never_compiled
    def _see(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        mask, past = kwargs.get("attention_mask"), kwargs.get("past_key_values")
        self._pass.mask = mask.bool() if mask is not None and mask.ndim == 2 else None
        self._pass.n_past = 0 if past is None else past.get_seq_length()
        self._pass.has_tokens = kwargs.get("inputs_embeds") is None

    def context(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> PassContext:
        """The mask of the pass, and the cache of all layers, which lives as long as its text."""
        cache = None
        for value in (*args, *kwargs.values()):  # architectures pass it in different places
            if isinstance(value, Cache):
                cache = value
                break
        told = self._pass
        return PassContext(told.mask, cache, told.n_past, has_tokens=told.has_tokens)

    def run(
        self,
        tokens: Int[Tensor, "b pos"],
        attended: Bool[Tensor, "b pos"],
        *,
        n_blocks: int | None = None,
        start: KnownStart | None = None,
        past: Any = None,
    ) -> Any:
        """Logits of right-padded sequences; blocks whose result is known are skipped."""
        if start is not None and not self._has_seen_output:
            # A pass of one token shows what blocks return, which a skipped block has to imitate.
            with silenced(self.model):
                super().run(tokens[:1, :1], attended[:1, :1], n_blocks=1)
        return super().run(tokens, attended, n_blocks=n_blocks, start=start, past=past)

    def new_past(self, n_sequences: int) -> Any:
        """An empty key-value cache for a pass; None where passes cannot go on from one."""
        # Recurrent models keep a state in place of keys and values, which cannot be cut.
        is_recurrent = getattr(self.model.original_model, "_is_stateful", False)
        return DynamicCache() if self.causal and not is_recurrent else None

    def n_past(self, past: Any, block: int) -> int:
        """How many positions a block has in a cache."""
        return past.get_seq_length(block)

    def part_of_past(self, past: Any, row: int, n_positions: int, n_times: int) -> Any:
        """A cache of the first positions of one sequence, repeated for several sequences."""
        part = DynamicCache()
        for block, layer in enumerate(past.layers):
            keys = layer.keys[row, :, :n_positions].expand(n_times, -1, -1, -1)
            values = layer.values[row, :, :n_positions].expand(n_times, -1, -1, -1)
            part.update(keys, values, block)
        return part

    def _forward(self, tokens: Tensor, attended: Tensor, past: Any) -> Any:
        options: dict[str, Any] = {"attention_mask": attended.long()}
        if self.causal:
            options = {"use_cache": past is not None, "past_key_values": past}
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
    """Frees what bridges of GPT-2 and NeoX keep and never read: the pattern of each layer."""
    attention: Any = getattr(block, "attn", None)
    if getattr(attention, "_pattern", None) is not None:
        attention._pattern = None
