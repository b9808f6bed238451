"""stories260K, the really trained model of some benchmarks, read from ``CLVQ_SHARED``."""

import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

SHARED = Path(os.environ.get("CLVQ_SHARED", Path(__file__).parents[2] / "shared"))


def stories_model(device: str | torch.device = "cpu") -> "HookedTransformer":
    """LLaMA-like, 5 blocks of width 64, really trained on TinyStories."""
    from safetensors.torch import load_file
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformers import AutoTokenizer

    folder = SHARED / "models/stories260K"
    warnings.filterwarnings("ignore", "Hooked.* is deprecated", DeprecationWarning)
    options = json.loads((folder / "hooked/cfg.json").read_text())
    cfg = HookedTransformerConfig(**options, device=str(device))
    tokenizer = AutoTokenizer.from_pretrained(folder / "hf")
    model = HookedTransformer(cfg, tokenizer=tokenizer, default_padding_side="right")
    # Not strict: the file holds parameters, and no masks.
    model.load_state_dict(load_file(folder / "hooked/model.safetensors"), strict=False)
    return model.eval()
