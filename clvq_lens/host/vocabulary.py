"""Texts to tokens and back, as the model reads and writes them."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from clvq_lens.arguments import checked_text
from clvq_lens.errors import DataError
from clvq_lens.host.protocol.base import HostProtocol
from clvq_lens.host.protocol.choice import protocol_of
from clvq_lens.host.spelling import SpelledToken, Spelling, displayed_texts


@dataclass(frozen=True)
class PaddingRule:
    """How to tell padding from text in a row of tokens.

    Attributes:
        token: The token that pads; None: no token does.
        n_begin: How many such tokens a text begins with: 1 where the token is also BOS, else 0.
        n_end: How many such tokens a text ends with.
    """

    token: int | None
    n_begin: int = 0
    n_end: int = 0

    def text_in(self, tokens: Int[Tensor, " pos"]) -> tuple[int, int]:
        """Where the text begins and ends in a row that may be padded left or right.

        In a run of tokens that pad, the innermost belong to the text, as in TransformerLens.
        """
        n = len(tokens)
        if self.token is None:
            return 0, n
        others = (tokens != self.token).nonzero().flatten()
        if len(others) == 0:
            return 0, 0
        first, last = int(others[0]), int(others[-1])
        return max(0, first - self.n_begin), min(n, last + 1 + self.n_end)


class Vocabulary:
    """The tokens of a model: their ids, their texts, and which of them are special.

    Args:
        model: The host model, with a tokenizer or without.
        protocol: The protocol of the model; None: it is chosen for the model.
    """

    def __init__(self, model: Any, protocol: HostProtocol | None = None) -> None:
        self.model, self.cfg = model, model.cfg
        self._protocol = protocol or protocol_of(model)
        self._last_spelling: Spelling | None = None

    @property
    def _tokenizer(self) -> Any:
        return self.model.tokenizer

    def tokenize(self, texts: Sequence[str]) -> list[Int[Tensor, " pos"]]:
        """Token ids of each text, with BOS where the model reads it, never truncated.

        Raises:
            DataError: If the model has no tokenizer.
        """
        tokenizer = self._tokenizer
        if tokenizer is None:
            raise DataError(
                "This model has no tokenizer, so it cannot read texts. "
                "Pass a tensor of tokens, or call model.set_tokenizer(...) first."
            )
        prefix, drop_bos = self._protocol.bos
        prefixed = [prefix + text for text in texts]
        tokens = []
        # Not verbose: transformers would warn of each text that is longer than the context.
        for ids in tokenizer(prefixed, verbose=False)["input_ids"]:
            tokens.append(torch.tensor(ids[1:] if drop_bos else ids, dtype=torch.long))
        return tokens

    def offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Where in its text each real token stands: first character, and the one after the last.

        Raises:
            DataError: If the tokenizer cannot tell.
        """
        if not getattr(self._tokenizer, "is_fast", False):
            raise DataError(
                "The tokenizer of this model does not tell where in a text its tokens stand. "
                "Use a fast one: AutoTokenizer.from_pretrained(name, use_fast=True)."
            )
        prefix, _ = self._protocol.bos
        special = set(self.special.tolist())
        prefixed = [prefix + text for text in texts]
        encoded = self._tokenizer(prefixed, verbose=False, return_offsets_mapping=True)
        offsets = []
        for ids, places in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            of_text = []
            for token, (start, end) in zip(ids, places, strict=True):
                if token not in special:
                    of_text.append((start - len(prefix), end - len(prefix)))
            offsets.append(of_text)
        return offsets

    @property
    def special(self) -> Int[Tensor, " n"]:
        """Ids that stand for no part of a text: BOS, EOS, padding and so on, but not "unknown"."""
        tokenizer = self._tokenizer
        if tokenizer is None:
            return torch.empty(0, dtype=torch.long)
        special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        # A bridge gives BOS and EOS to tokenizers of encoders, whose models know neither.
        if self._protocol.causal:
            special |= {tokenizer.bos_token_id, tokenizer.eos_token_id}
        special |= {tokenizer.pad_token_id}
        return torch.tensor(sorted(special - {None}), dtype=torch.long)

    @property
    def special_by_name(self) -> dict[str, int]:
        """Ids of special tokens, by their role ("cls", "sep", "bos") and by their text."""
        tokenizer = self._tokenizer
        if tokenizer is None:
            return {}
        special = set(self.special.tolist())
        named = {}
        for role, text in tokenizer.special_tokens_map.items():
            if not isinstance(text, str):  # a list of additional tokens
                continue
            token = tokenizer.convert_tokens_to_ids(text)
            if token in special:
                named[role.removesuffix("_token")] = token
                named[text] = token
        return named

    @property
    def unwritten(self) -> Int[Tensor, " n"]:
        """Ids that no text contains: special ones, and the one for what is unknown."""
        tokenizer = self._tokenizer
        if tokenizer is None or tokenizer.unk_token_id is None:
            return self.special
        return torch.cat([self.special, torch.tensor([tokenizer.unk_token_id])])

    @property
    def padding(self) -> int:
        """The id that fills up shorter sequences."""
        tokenizer = self._tokenizer
        if tokenizer is not None:
            for token in (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id):
                if token is not None:
                    return token
        return 0

    @property
    def padding_rule(self) -> PaddingRule:
        """How to tell padding from text in rows of tokens; without a tokenizer, nothing is padding.

        The padding token may also begin or end texts, as the only special token of GPT-2 does.
        """
        padding = self.padding
        if self._tokenizer is None or padding not in self.special.tolist():
            return PaddingRule(None)
        empty = self.tokenize([""])[0].tolist()
        begins = bool(self.cfg.default_prepend_bos) and empty[:1] == [padding]
        ends = empty[int(begins) :][-1:] == [padding]
        return PaddingRule(padding, int(begins), int(ends))

    def check_ids(self, tokens: Int[Tensor, " n"], where: str) -> None:
        """Raises `DataError` for ids that the model has no embedding for.

        Args:
            tokens: Ids.
            where: What holds them, as the beginning of the message, such as "The data".
        """
        n = self.cfg.d_vocab
        wrong = tokens[(tokens < 0) | (tokens >= n)]
        if len(wrong):
            raise DataError(
                f"{where} hold{'' if where.endswith('data') else 's'} the token id "
                f"{int(wrong[0])}, but the model has ids 0 to {n - 1}. Check the tokenizer; where "
                f"the id marks padding, pass a mask: "
                f"{{'input_ids': tokens, 'attention_mask': mask}}."
            )

    def strings(self, tokens: Int[Tensor, " pos"]) -> list[str]:
        """The text of each token of a sequence; together they make up its text.

        Where several tokens spell one character, the first has the whole character and the others
        have nothing. Without a tokenizer, the texts are the ids.
        """
        return [spelled.text for spelled in self._spelled(tokens)]

    def displayed(self, tokens: Int[Tensor, " pos"]) -> list[str]:
        """What to show for each token of a sequence.

        As `strings`, but where several tokens spell one character, each shows the character and
        which part of it the token is, as in "\u6f22\u27e82/3\u27e9".
        """
        return displayed_texts(self._spelled(tokens))

    def strings_and_displayed(self, tokens: Int[Tensor, " pos"]) -> tuple[list[str], list[str]]:
        """Both of them, in the time of one."""
        spelled = self._spelled(tokens)
        return [token.text for token in spelled], displayed_texts(spelled)

    def names(self, tokens: Int[Tensor, " n"]) -> list[str]:
        """What to call each of some unrelated tokens, with the space that belongs to it.

        A part of a character is called by its bytes, as in "\u27e8E6 BC\u27e9".
        """
        spelling = self._spelling
        if spelling is None:
            return [str(token) for token in tokens.tolist()]
        return spelling.names(tokens.tolist())

    @property
    def _spelling(self) -> Spelling | None:
        """What decodes tokens; None without a tokenizer."""
        tokenizer = self._tokenizer
        if tokenizer is None:
            return None
        # The user may give the model another tokenizer at any time.
        if self._last_spelling is None or self._last_spelling.tokenizer is not tokenizer:
            self._last_spelling = Spelling(tokenizer)
        return self._last_spelling

    def _spelled(self, tokens: Int[Tensor, " pos"]) -> list[SpelledToken]:
        spelling = self._spelling
        if spelling is None:
            return [SpelledToken(f" {token}") for token in tokens.tolist()]
        return spelling.of_sequence(tokens.tolist())

    def output_of(self, token: str | int) -> int:
        """The index of a logit: the id of a token or, where logits are not for tokens, the number.

        Raises:
            DataError: If the model has no such logit.
        """
        n_outputs = self.cfg.d_vocab_out
        if n_outputs == self.cfg.d_vocab:
            return self.id_of(token)
        number = _whole(token)
        if number is None or not 0 <= number < n_outputs:
            raise DataError(
                f"There is no logit of {token!r}: this model reads {self.cfg.d_vocab} tokens, but "
                f"has {n_outputs} outputs of its own. Pass a number from 0 to {n_outputs - 1}."
            )
        return number

    def output_names(self, outputs: Int[Tensor, " n"]) -> list[str]:
        """What to call some logits: the token that each stands for, or the number of the output."""
        if self.cfg.d_vocab_out == self.cfg.d_vocab:
            return self.names(outputs)
        return [f"output {output}" for output in outputs.tolist()]

    def id_of(self, token: str | int) -> int:
        """The id of a single token.

        Raises:
            DataError: If it is not a single token of the model, or the model has no tokenizer.
        """
        if not isinstance(token, str):
            number = _whole(token)
            if number is None or not 0 <= number < self.cfg.d_vocab:
                raise DataError(
                    f"There is no token {token!r}. Pass an id from 0 to {self.cfg.d_vocab - 1}."
                )
            return number
        tokenizer = self._tokenizer
        if tokenizer is None:
            raise DataError(f"This model has no tokenizer, so {token!r} is unknown. Pass an id.")
        checked_text(token, "The token")
        for text in (token, token.strip()):  # some tokenizers put the space in by themselves
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
                return ids[0]
        vocabulary = tokenizer.get_vocab()
        if token in vocabulary:
            return vocabulary[token]
        pieces = tokenizer.tokenize(token)
        raise DataError(
            f"{token!r} is not one token of this model, but {pieces}. Pass one token, with the "
            f"space that belongs to it, or its id."
        )


def _whole(number: Any) -> int | None:
    """A whole number of Python, NumPy or torch as an int; None if it is something else."""
    try:
        return None if isinstance(number, bool) else operator.index(number)
    except (TypeError, RuntimeError, ValueError):
        return None
