"""Feeding a fit from a store, beside running the model and reading the same bytes bare."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import clvq_lens as cl
from benchmarks.random_models import GPT2_VOCAB, random_model
from benchmarks.stories import stories_model
from benchmarks.timing import Row, device, interleaved, rows
from clvq_lens.config import FitConfig
from clvq_lens.data.stream import ShuffledStream
from clvq_lens.training.training_data import TrainingData

_STORIES_TOKENS, _GPT2_TOKENS, _CONTEXT = 400_000, 40_000, 128


def run(repetitions: int = 5) -> list[Row]:
    """Tokens of one epoch at a source and a target, single and shuffled, in batches of 1,024."""
    table: list[Row] = []
    for name, model, n_tokens in (
        ("stories260K", stories_model(device()), _STORIES_TOKENS),
        ("a model of GPT-2 small's shape", _gpt2_shaped(), _GPT2_TOKENS),
    ):
        generator = torch.Generator().manual_seed(0)
        n_rows = n_tokens // (_CONTEXT - 1)
        tokens = torch.randint(5, model.cfg.d_vocab, (n_rows, _CONTEXT), generator=generator)
        with tempfile.TemporaryDirectory() as folder:
            table += _of_model(name, model, tokens, Path(folder), repetitions)
    return table


def _of_model(
    name: str, model: Any, tokens: torch.Tensor, folder: Path, repetitions: int
) -> list[Row]:
    """One model: its store is written first, and is in the memory of the system afterwards.

    The store and its memory maps are open before the clock starts. To open the stream of a model
    is to run it.
    """
    lens = model.add_clvq(1, 3)
    store = cl.cache_activations(model, tokens, folder, points=[1, 3], progress=False)
    opened = _stream(lens, store)
    arrays = _memory_maps(store)
    bare, shuffled = "bare numpy.memmap", "bare numpy.memmap, shuffled rows"
    contestants: dict[str, Callable[[], object]] = {
        bare: partial(_read, arrays, shuffled=False),
        shuffled: partial(_read, arrays, shuffled=True),
        "stream of a fit from the store": partial(_consume, opened),
        "stream of a fit from the model": lambda: _consume(_stream(lens, tokens)),
    }
    medians = interleaved(contestants, repetitions=repetitions)
    lens.remove()
    return rows(f"{name}, {store.n_tokens:,} tokens", medians, shuffled)


def _gpt2_shaped() -> Any:
    # Blocks beyond the target are not computed.
    return random_model(768, n_layers=4, n_context=_CONTEXT, d_vocab=GPT2_VOCAB)


def _stream(lens: cl.Lens, data: Any) -> ShuffledStream:
    config = FitConfig(held_out_fraction=0.0, n_tokens=10)
    return TrainingData(lens.attachment, data, config, progress=False).open(whole_sequences=False)


def _consume(stream: ShuffledStream) -> None:
    """One epoch of single tokens."""
    n_tokens = 0
    for batch in stream:
        n_tokens += batch.n_tokens
        if n_tokens >= stream.n_tokens:
            break


def _memory_maps(store: cl.ActivationStore) -> list[np.ndarray]:
    """The activations of all shards at both points, as numpy maps the files."""
    arrays: list[np.ndarray] = []
    for shard, entry in zip(store.shards, store.index.shards, strict=True):
        for point in store.points:
            arrays.append(_mapped(store.folder / entry.file, shard.activations(point)))
    return arrays


def _mapped(path: Path, tensor: torch.Tensor) -> np.ndarray:
    """A numpy map of the bytes that a tensor of the file has."""
    offset = path.read_bytes().find(tensor.numpy().tobytes())
    return np.memmap(path, dtype=np.float32, mode="r", offset=offset, shape=tuple(tensor.shape))


def _read(arrays: list[np.ndarray], *, shuffled: bool) -> None:
    """Copies all rows into memory, 1,024 at a time."""
    random = np.random.default_rng(0)
    for array in arrays:
        order = random.permutation(len(array)) if shuffled else np.arange(len(array))
        for start in range(0, len(array), 1024):
            if shuffled:
                array.take(order[start : start + 1024], axis=0)
            else:
                np.array(array[start : start + 1024])
