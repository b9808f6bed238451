"""The table of docs/scaling.md: ``python -m benchmarks.scaling``."""

import tempfile
from pathlib import Path
from typing import Any

from transformers import GPT2Config, LlamaConfig, PretrainedConfig

import clvq_lens as cl
from benchmarks import markdown

# Sizes as their configurations on the Hub have them; no weights are needed.
_LLAMA: dict[str, Any] = {
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
MODELS: dict[str, tuple[PretrainedConfig, int, int]] = {
    "GPT-2 small": (GPT2Config(dtype="float32"), 4, 8),
    "Llama 3.1 8B": (
        LlamaConfig(
            hidden_size=4096,
            intermediate_size=14_336,
            num_hidden_layers=32,
            num_attention_heads=32,
            **_LLAMA,
        ),
        12,
        20,
    ),
    "Llama 3.1 70B": (
        LlamaConfig(
            hidden_size=8192,
            intermediate_size=28_672,
            num_hidden_layers=80,
            num_attention_heads=64,
            **_LLAMA,
        ),
        30,
        50,
    ),
}
PLANS = (
    ("GPT-2 small", 10**7, 400, "table", "T4", 1),
    ("GPT-2 small", 10**7, 400, "transformer", "H100", 1),
    ("Llama 3.1 8B", 10**7, 400, "table", "RTX 4090", 1),
    ("Llama 3.1 8B", 10**8, 4_096, "transformer", "H100", 8),
    ("Llama 3.1 70B", 10**8, 4_096, "table", "H100", 8),
    ("Llama 3.1 70B", 10**9, 16_384, "transformer", "H200", 64),
)


def main() -> None:
    """Prints the table."""
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, n_tokens, n_codes, decoder, gpu, n_gpus in PLANS:
            config, source, target = MODELS[name]
            place = Path(folder) / name
            config.save_pretrained(place)
            plan = cl.plan(
                str(place),
                n_tokens,
                source=source,
                target=target,
                n_codes=n_codes,
                decoder=decoder,
                context=1024,
                gpu=gpu,
                n_gpus=n_gpus,
                dtype=str(config.dtype).removeprefix("torch."),
            )
            hours = [f"{phase.wall_s / 3600:.2g}" for phase in plan.phases[:1]]
            hours.append(f"{(plan.wall_s - plan.phases[0].wall_s) / 3600:.2g}")
            memory = f"{plan.model_bytes / 2**30:,.1f} + {plan.fit_bytes / 2**30:,.1f} GB"
            fit = f"{n_codes:,} codes, {decoder}"
            what = [f"{name}, {source} to {target}", f"{n_tokens:,}", fit, plan.where]
            rows.append([*what, *hours, memory, f"{plan.disk_bytes / 2**40:.2g} TB"])
    titles = ["model", "tokens", "quantizer", "GPUs", "reading, h", "fit, h", "memory", "disk"]
    print(markdown.table(titles, "lrllrrrr", rows))


if __name__ == "__main__":
    main()
