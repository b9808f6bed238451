"""Train the model that the package ships: ``python -m clvq_lens.toy.train``.

Every step sees fresh texts, so there is nothing to overfit; what remains of the loss is the
entropy of the grammar and a small gap. Writes ``data/`` and needs about ten minutes on one core.
"""

import argparse
import itertools
import json
import math
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import save
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from clvq_lens.toy.architecture import N_CONTEXT, toy_architecture
from clvq_lens.toy.labeling import entropy, generate, stream
from clvq_lens.toy.world import DATA, build_model, load_tokenizer

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
HELD_OUT_SEED = 1_000_000  # far from the small seeds that users pass to load()
N_HELD_OUT = 5000
_PACKAGES = ("torch", "transformer-lens", "tokenizers")  # what the weights depend on
BATCHES_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the model is trained."""

    n_steps: int = 3000
    batch_size: int = 64
    learning_rate: float = 3e-3
    warmup_steps: int = 200
    weight_decay: float = 0.01
    seed: int = 0


def learning_rate_factor(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    fraction_done = (step - recipe.warmup_steps) / (recipe.n_steps - recipe.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * fraction_done))


def make_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Write the word-level tokenizer of the world to ``folder`` and read it back."""
    # Enough stories to hold every word of the world, which a test confirms.
    words: set[str] = set()
    for text in generate(2000, seed=HELD_OUT_SEED):
        words.update(text.split())
    # Sorted: the order of a set differs from run to run.
    ids = {token: index for index, token in enumerate([PAD, BOS, EOS, UNK, *sorted(words)])}
    raw = Tokenizer(WordLevel(ids, unk_token=UNK))
    raw.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]
    PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        model_max_length=N_CONTEXT,
    ).save_pretrained(folder)
    return load_tokenizer(folder)


def padded(rows: Sequence[list[int]]) -> Int[Tensor, "batch pos"]:
    """One tensor of rows of different length; PAD has the id 0."""
    return pad_sequence(list(map(torch.tensor, rows)), batch_first=True)


def batches(recipe: Recipe, vocabulary: dict[str, int]) -> Iterator[Int[Tensor, "batch pos"]]:
    """Fresh texts for every step; those of a batch have similar lengths, to save padding."""
    rng = random.Random(f"clvq_lens.toy training {recipe.seed}")  # no seed of generate() meets it
    texts = stream(rng)
    while True:
        rows: list[list[int]] = []
        for text in itertools.islice(texts, BATCHES_AT_ONCE * recipe.batch_size):
            rows.append([vocabulary[word] for word in (BOS, *text.split(), EOS)])
        rows.sort(key=len)
        ready = []
        for start in range(0, len(rows), recipe.batch_size):
            ready.append(padded(rows[start : start + recipe.batch_size]))
        rng.shuffle(ready)  # or steps would go from short stories to long ones, again and again
        yield from ready


def token_losses(
    model: torch.nn.Module, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch next"]:
    """Cross-entropy of each next token in nats, 0 at padding."""
    logits = model(tokens[:, :-1], return_type="logits")
    return functional.cross_entropy(
        logits.transpose(1, 2), tokens[:, 1:], ignore_index=0, reduction="none"
    )


@torch.no_grad()
def loss_on(model: "HookedTransformer", texts: Sequence[str]) -> float:
    """Mean cross-entropy in nats per word, to be compared with ``entropy(texts)``."""
    total, n_words = 0.0, 0
    for start in range(0, len(texts), 256):
        tokens = model.to_tokens(list(texts[start : start + 256]))
        total += token_losses(model, tokens).sum().item()
        n_words += int((tokens[:, 1:] != 0).sum())
    return total / n_words


def train(recipe: Recipe, folder: Path) -> "HookedTransformer":
    """A model trained by ``recipe``, with a tokenizer that is written to ``folder``."""
    tokenizer = make_tokenizer(folder)
    with torch.random.fork_rng():  # whoever calls this keeps their own random state
        torch.manual_seed(recipe.seed)
        architecture = toy_architecture(len(tokenizer))
        model = build_model(architecture, tokenizer, "cpu", init_weights=True)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, recipe)
    )
    steps = itertools.islice(batches(recipe, tokenizer.get_vocab()), recipe.n_steps)
    progress = tqdm(steps, total=recipe.n_steps, desc="training the toy model")
    for step, tokens in enumerate(progress):
        # The mean over words: padding has no loss, and must not count either.
        loss = token_losses(model, tokens).sum() / (tokens[:, 1:] != 0).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            progress.set_postfix(loss=f"{loss.item():.4f}")
    return model.eval()


def report(model: "HookedTransformer", recipe: Recipe, core_s: float) -> dict[str, Any]:
    """What ``config.json`` records: the model, how it was trained and how well."""
    held_out = generate(N_HELD_OUT, seed=HELD_OUT_SEED)
    loss, floor = loss_on(model, held_out), entropy(held_out)
    return {
        "model": toy_architecture(model.cfg.d_vocab),
        "recipe": asdict(recipe),
        "held_out": {
            "n_texts": N_HELD_OUT,
            "seed": HELD_OUT_SEED,
            "loss_nats_per_token": round(loss, 5),
            "entropy_nats_per_token": round(floor, 5),
            "gap_nats_per_token": round(loss - floor, 5),
        },
        "training_core_s": round(core_s),
        "versions": {name: version(name) for name in _PACKAGES},
    }


def main() -> None:
    """Train, measure and write the files of the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DATA, help="folder to write")
    for field in fields(Recipe):
        name = "--" + field.name.replace("_", "-")
        parser.add_argument(name, type=type(field.default), default=field.default)
    options = vars(parser.parse_args())
    out = options.pop("out")
    torch.set_num_threads(1)  # a fixed number: the same seed gives the same bits
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as name:
        folder, recipe, start = Path(name), Recipe(**options), time.process_time()
        model = train(recipe, folder)
        facts = report(model, recipe, time.process_time() - start)
        # Parameters alone: masks and other buffers follow from the architecture.
        weights: dict[str, Tensor] = {}
        for key, parameter in model.named_parameters():
            weights[key] = parameter.detach().contiguous()
        (folder / "model.safetensors").write_bytes(save(weights))
        (folder / "config.json").write_text(json.dumps(facts, indent=2) + "\n")
        for file in folder.iterdir():
            file.replace(out / file.name)  # atomic: a killed run leaves the old files


if __name__ == "__main__":
    main()
