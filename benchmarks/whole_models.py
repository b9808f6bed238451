"""The models of `benchmarks whole`, each with texts, in sizes that take minutes on a CPU."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import smollm2
from benchmarks.paper.data import stories, wikitext
from benchmarks.random_models import GPT2_VOCAB, random_model
from benchmarks.stories import SHARED, stories_model
from benchmarks.timing import device
from clvq_lens.data.documents import open_documents
from clvq_lens.data.tokens import token_batches
from clvq_lens.host.host import Host

_GPT2_CONTEXT = 256


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much each verb has to read.

    Attributes:
        fit: Tokens of the texts that a lens is fitted on; it reads them as often as it likes.
        judged: Tokens of the texts that are read, evaluated and surveyed.
        n_classified: Texts for salience and faithfulness, each of ``classified_words`` words.
        classified_words: Words of such a text.
        n_steps: Points of the path of integrated gradients.
        repetitions: How often each verb is timed.
    """

    fit: int
    judged: int
    n_classified: int = 16
    classified_words: int = 24
    n_steps: int = 8
    repetitions: int = 1


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model with its texts.

    Attributes:
        name: What it is called on the page.
        model: Loads it.
        points: Source and target.
        texts: Loads texts to fit on, and others to judge with.
        sizes: How much is read.
    """

    name: str
    model: Callable[[], Any]
    points: tuple[int, int]
    texts: Callable[[], tuple[list[str], list[str]]]
    sizes: Sizes


def gpt2_shaped() -> Any:
    """A model of GPT-2 small's shape, with random weights and the real tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(SHARED / "tokenizers/gpt2")
    return random_model(
        768, n_layers=12, n_context=_GPT2_CONTEXT, d_vocab=GPT2_VOCAB, tokenizer=tokenizer
    )


SUBJECTS = {
    "stories260K": Subject(
        name="stories260K",
        model=lambda: stories_model(device()),
        points=(1, 3),
        texts=stories,
        sizes=Sizes(fit=20_000, judged=20_000, n_classified=32, n_steps=32, repetitions=3),
    ),
    "gpt2": Subject(
        name="GPT-2 small's shape",
        model=gpt2_shaped,
        points=(4, 8),
        texts=wikitext,
        sizes=Sizes(fit=8_000, judged=8_000),
    ),
    "smollm2": Subject(
        name="SmolLM2-135M",
        model=lambda: smollm2.model().to(device()),
        points=smollm2.LAYERS,
        texts=wikitext,
        sizes=Sizes(fit=8_000, judged=6_000),
    ),
}


def texts_of(host: Host, texts: list[str], n_tokens: int) -> list[str]:
    """The first texts, until they hold so many tokens."""
    n_read = 0
    for number, text in enumerate(texts):
        if n_read >= n_tokens:
            return texts[:number]
        n_read += int(host.model.to_tokens(text).numel())
    return texts


def classified(texts: list[str], sizes: Sizes) -> list[str]:
    """The beginnings of some texts."""
    return [
        " ".join(text.split()[: sizes.classified_words]) for text in texts[: sizes.n_classified]
    ]


def batches_of(host: Host, texts: list[str]) -> list[Tensor]:
    """The batches of tokens that the library makes of some texts."""
    batches = token_batches(host, open_documents(texts), long_texts="split")
    return [batch.tokens.to(host.device) for batch in batches]


def random_head(width: int) -> Tensor:
    """Weights of a classifier of two classes."""
    return torch.randn(2, width, generator=torch.Generator().manual_seed(0)).to(device())
