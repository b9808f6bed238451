"""A judge that is a model of transformers in this process."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from clvq_lens.arguments import check_count
from clvq_lens.errors import ConfigError, TextTooLongError, UnsupportedHostError
from clvq_lens.host.modes import evaluating
from clvq_lens.host.supported import checked_model
from clvq_lens.judges.language_judge import LanguageJudge

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

_N_VALUES = 16  # of each parameter, for the digest that tells models apart


def hf(
    model: object,
    tokenizer: object,
    *,
    cache: str | Path | None = None,
    batch_size: int = 16,
    max_tokens: int | None = None,
) -> LanguageJudge:
    """A model of transformers as a judge: everything stays on this machine.

    Any causal language model whose tokenizer has a chat template will do, on the device where it
    is, in batches, greedily: the same answers each time. How good a judge it is shows in
    `clvq_lens.detection`, beside the control and chance. SmolLM2-135M-Instruct, which the tests
    and benchmarks use because it is small, is a weak one: on the toy world it is at chance, with
    names by which a rule tells three contexts of four, and the names that it gives tell nobody
    anything. That says nothing about the codes. Take a model of several billion parameters, or
    `clvq_lens.judges.openai` with a server that has one.

    Args:
        model: An instruction-tuned causal language model, such as
            ``AutoModelForCausalLM.from_pretrained(name)``. It is left as it is.
        tokenizer: Its tokenizer, with a chat template.
        cache: A folder in which answers are kept, so that a run that is interrupted goes on and a
            second one asks nothing. Answers are kept under the weights, the dtype, the chat
            template and the prompt.
        batch_size: Prompts that the model reads at once.
        max_tokens: Most tokens of an answer; None: a few words' worth. Models that reason aloud
            need hundreds; those that let a template turn that off are not made to.

    Raises:
        ConfigError: If the tokenizer is none of transformers or has no chat template, or an option
            has an impossible value.
        UnsupportedHostError: If the model is not a causal language model of transformers.
        PathError: If the folder cannot be created or written to.

    Example:
        >>> judge = cl.judges.hf(instruct_model, tokenizer, cache="answers")  # doctest: +SKIP
        >>> named = table.named(judge)  # doctest: +SKIP
        >>> cl.detection(named, judge).summary()  # doctest: +SKIP
    """
    check_count("batch_size", batch_size)
    if max_tokens is not None:
        check_count("max_tokens", max_tokens)
    checked = checked_model(model)
    if not checked.can_generate():
        raise UnsupportedHostError(
            f"{type(checked).__name__} cannot generate text. Load the model with its "
            f"language-model head: AutoModelForCausalLM.from_pretrained(name)."
        )
    local = LocalModel(checked, _with_template(tokenizer), batch_size, max_tokens)
    return LanguageJudge(local, cache)


class LocalModel:
    """A model of transformers that answers prompts, greedily.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        batch_size: Prompts that it reads at once.
        max_tokens: Most tokens of an answer; None: a few words' worth.

    Attributes:
        name: Name that the model was loaded by, or else its class.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        batch_size: int,
        max_tokens: int | None,
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self.batch_size, self.max_tokens = batch_size, max_tokens
        self.name = Path(model.config.name_or_path or "").name or type(model).__name__

    def settings(self) -> Mapping[str, Any]:
        """What tells this model from others, and how it is asked."""
        return {
            "kind": "transformers",
            "model": self.name,
            "weights": _digest(self._model),
            "dtype": str(self._model.dtype),
            "chat_template": str(self._tokenizer.chat_template),
        }

    @torch.no_grad()
    def answer(self, prompts: Sequence[str], max_tokens: int) -> list[str]:
        """An answer to each prompt.

        Raises:
            TextTooLongError: If the model cannot read a prompt and its answer.
        """
        from transformers import GenerationConfig

        rows = [self._tokens(prompt) for prompt in prompts]
        self._check_length(max(map(len, rows)) + max_tokens)
        tokens, mask = _padded_on_the_left(rows, self._model.device)
        ends = self._ends()
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_tokens,
            eos_token_id=ends,
            pad_token_id=ends[0],
        )
        with evaluating(self._model), _generating_by(self._model, config):
            model: Any = self._model  # its generate is a mixin that type checkers do not see
            generated = model.generate(tokens, attention_mask=mask)
        answers = generated[:, tokens.shape[1] :]
        return self._tokenizer.batch_decode(answers, skip_special_tokens=True)

    def _tokens(self, prompt: str) -> list[int]:
        """A prompt in the model's chat format."""
        for special in self._tokenizer.all_special_tokens:
            # In a text from data it is text, and must not end the question.
            prompt = prompt.replace(special, f"{special[0]} {special[1:]}")
        chat = self._tokenizer.apply_chat_template(
            # No system message, which some templates refuse.
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,  # for templates that know it; others take no notice
        )
        return self._tokenizer(str(chat), add_special_tokens=False)["input_ids"]

    def _ends(self) -> list[int]:
        """The tokens that end an answer; one of them also fills rows whose answer has ended."""
        config = self._model.generation_config
        ends: Any = None if config is None else config.eos_token_id
        if ends is None:
            ends = self._tokenizer.eos_token_id
        if ends is None:
            raise ConfigError(
                "Neither the model's generation_config nor the tokenizer names a token that ends "
                "an answer. Set tokenizer.eos_token to the one that the chat template ends with."
            )
        return list(ends) if isinstance(ends, list | tuple) else [ends]

    def _check_length(self, n_tokens: int) -> None:
        """Raises `TextTooLongError` if the model's positions do not reach that far."""
        most = getattr(self._model.config, "max_position_embeddings", None)
        if most is not None and n_tokens > most:
            raise TextTooLongError(
                f"A prompt and its answer take {n_tokens:,} tokens, and {self.name} reads {most:,} "
                f"at most. Pass a model with a longer context, a smaller max_tokens, or a table of "
                f"shorter texts."
            )


def _with_template(tokenizer: object) -> "PreTrainedTokenizerBase":
    """The tokenizer itself.

    Raises:
        ConfigError: If it is none of transformers, or has no chat template.
    """
    from transformers import PreTrainedTokenizerBase

    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ConfigError(
            f"tokenizer is of type {type(tokenizer).__name__}. Pass the one of the model, such as "
            f"AutoTokenizer.from_pretrained(name)."
        )
    if not tokenizer.chat_template:
        raise ConfigError(
            "The tokenizer has no chat template, so the model was hardly taught to answer. Pass an "
            "instruction-tuned model with its own tokenizer, or set tokenizer.chat_template."
        )
    return tokenizer


@contextmanager
def _generating_by(model: "PreTrainedModel", config: "GenerationConfig") -> Iterator[None]:
    """While open, a model generates by that config alone.

    That of the model may sample, or forbid tokens, and would fill in what one that is passed to
    ``generate`` leaves open.
    """
    before = model.generation_config
    try:
        model.generation_config = config
        yield
    finally:
        model.generation_config = before


def _padded_on_the_left(
    rows: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "row pos"], Int[Tensor, "row pos"]]:
    """Prompts of any length as one batch, and where they are."""
    tokens = [torch.tensor(row) for row in rows]
    # On the left, so that every answer begins in the same place.
    pad = partial(pad_sequence, batch_first=True, padding_side="left")
    return pad(tokens).to(device), pad(list(map(torch.ones_like, tokens))).to(device)


def _digest(model: "PreTrainedModel") -> str:
    """Tells the weights of models apart by some values of each parameter."""
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        if not parameter.is_meta:  # weights that are kept on disk
            values = parameter.detach().flatten()
            index = torch.linspace(0, len(values) - 1, _N_VALUES, dtype=torch.double).long()
            digest.update(values[index.to(values.device)].double().cpu().numpy().tobytes())
    return digest.hexdigest()
