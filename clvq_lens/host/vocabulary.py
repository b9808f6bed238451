"""Texts to tokens and back, as the model is used to them."""

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from clvq_lens.arguments import checked_text
from clvq_lens.errors import DataError
from clvq_lens.host.protocol.base import HostProtocol
from clvq_lens.host.protocol.choice import protocol_of

_BROKEN = "\ufffd"  # what a decoder writes for bytes that are no character by themselves
_MOST_PARTS = 8  # tokens that spell one character, or two of which one token holds parts


@dataclass(frozen=True)
class PaddingRule:
    """How to tell padding from text in a row of tokens.

    Attributes:
        token: That pads; None: there is no such token.
        n_begin: How many of it texts of the model begin with: 1 where it also is their BOS.
        n_end: How many of it they end with.
    """

    token: int | None
    n_begin: int = 0
    n_end: int = 0

    def text_in(self, tokens: Int[Tensor, " pos"]) -> tuple[int, int]:
        """Where the text begins and ends in a row that may be padded left or right.

        Of a run of tokens that pad, the innermost are those of the text, as TransformerLens has it.
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
        model: With a tokenizer or without.
        protocol: How to speak to it; None: found out.
    """

    def __init__(self, model: Any, protocol: HostProtocol | None = None) -> None:
        self.model, self.cfg = model, model.cfg
        self._protocol = protocol or protocol_of(model)
        self._strings: dict[int, str] = {}  # of single tokens that were decoded before

    @property
    def _tokenizer(self) -> Any:
        return self.model.tokenizer

    def tokenize(self, texts: Sequence[str]) -> list[Int[Tensor, " pos"]]:
        """Token ids of each text, with BOS as the model is used to it, never truncated.

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
        ids = tokenizer([prefix + text for text in texts], verbose=False)["input_ids"]
        return [torch.tensor(row[1:] if drop_bos else row, dtype=torch.long) for row in ids]

    def offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Where in its text each real token stands: first character, and the one after the last.

        Raises:
            DataError: If the tokenizer does not know.
        """
        if not getattr(self._tokenizer, "is_fast", False):
            raise DataError(
                "The tokenizer of this model does not tell where in a text its tokens stand. "
                "Use a fast one: AutoTokenizer.from_pretrained(name, use_fast=True)."
            )
        (prefix, _), special = self._protocol.bos, set(self.special.tolist())
        found = self._tokenizer(
            [prefix + text for text in texts], verbose=False, return_offsets_mapping=True
        )
        rows = zip(found["input_ids"], found["offset_mapping"], strict=True)
        return [
            [
                (start - len(prefix), end - len(prefix))
                for token, (start, end) in zip(ids, places, strict=True)
                if token not in special
            ]
            for ids, places in rows
        ]

    @property
    def special(self) -> Int[Tensor, " n"]:
        """Ids that stand for no part of a text: BOS, EOS, padding and the like, but not unknown."""
        tokenizer = self._tokenizer
        if tokenizer is None:
            return torch.empty(0, dtype=torch.long)
        special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        if self._protocol.causal:  # a bridge gives a BOS to tokenizers of encoders, which they lack
            special |= {tokenizer.bos_token_id, tokenizer.eos_token_id}
        special |= {tokenizer.pad_token_id}
        return torch.tensor(sorted(special - {None}), dtype=torch.long)

    @property
    def special_by_name(self) -> dict[str, int]:
        """Ids of special tokens, by what they are for ("cls", "sep", "bos") and by their text."""
        tokenizer = self._tokenizer
        if tokenizer is None:
            return {}
        special, named = set(self.special.tolist()), {}
        for role, text in tokenizer.special_tokens_map.items():
            if isinstance(text, str):  # there may be a list of additional ones
                token = tokenizer.convert_tokens_to_ids(text)
                named |= {role.removesuffix("_token"): token, text: token}
        return {name: token for name, token in named.items() if token in special}

    @property
    def unwritten(self) -> Int[Tensor, " n"]:
        """Ids that no text is made of: special ones, and the one for what is unknown."""
        tokenizer = self._tokenizer
        if tokenizer is None or tokenizer.unk_token_id is None:
            return self.special
        return torch.cat([self.special, torch.tensor([tokenizer.unk_token_id])])

    @property
    def padding(self) -> int:
        """An id to fill up shorter sequences with."""
        tokenizer = self._tokenizer
        if tokenizer is not None:
            for token in (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id):
                if token is not None:
                    return token
        return 0

    @property
    def padding_rule(self) -> "PaddingRule":
        """How to tell padding from text in rows of tokens; without a tokenizer nothing is padding.

        The token that pads may also begin or end texts, as the only special token of GPT-2 does.
        """
        padding = self.padding
        if self._tokenizer is None or padding not in self.special.tolist():
            return PaddingRule(None)
        empty = self.tokenize([""])[0].tolist()
        begins = bool(self.cfg.default_prepend_bos) and empty[:1] == [padding]
        ends = empty[int(begins) :][-1:] == [padding]
        return PaddingRule(padding, int(begins), int(ends))

    def check_ids(self, tokens: Int[Tensor, " n"], where: str) -> None:
        """Raises `DataError` for ids that the model has no embedding of.

        Args:
            tokens: Ids.
            where: What holds them, for the message.
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

        Decoding one token at a time loses the spaces that some tokenizers put between them, so
        each string is looked up in the decoding of the whole. Where several tokens spell one
        character, the first has all of it and the others nothing. Ids where there is no tokenizer.
        """
        return [string for string, _, _ in self._spelled(tokens)]

    def displayed(self, tokens: Int[Tensor, " pos"]) -> list[str]:
        """What to show for each token of a sequence.

        As `strings`, but where several tokens spell one character, each shows the character and
        which part of it the token is, as in "\u6f22\u27e82/3\u27e9".
        """
        shown = []
        whole = ""
        for string, part, n_parts in self._spelled(tokens):
            whole = string if part == 1 else whole
            space = " " if part == 1 and whole.startswith(" ") else ""
            mark = f"\u27e8{part}/{n_parts}\u27e9"
            shown.append(string if n_parts == 1 else f"{space}{whole.strip(' ')}{mark}")
        return shown

    def names(self, tokens: Int[Tensor, " n"]) -> list[str]:
        """What to call each of some unrelated tokens, with the space that belongs to it.

        A part of a character is called by its bytes, as in "\u27e8E6 BC\u27e9".
        """
        tokenizer = self._tokenizer
        if tokenizer is None:
            return [str(token) for token in tokens.tolist()]
        strings = self._decoded(tokens.tolist())
        pieces = tokenizer.convert_ids_to_tokens(tokens.tolist())
        names = []
        for string, piece in zip(strings, pieces, strict=True):
            if _BROKEN in string:
                string = _bytes_name(piece) or string
            elif piece.startswith("\u2581") and not string.startswith(" "):
                string = f" {string}"
            names.append(string)
        return names

    def _spelled(self, tokens: Int[Tensor, " pos"]) -> list[tuple[str, int, int]]:
        """The text of each token, and which part it is of how many that spell one character."""
        ids = tokens.tolist()
        if self._tokenizer is None:
            return [(f" {token}", 1, 1) for token in ids]
        whole = self._decode(ids)
        alone = self._decoded(ids)
        spelled: list[tuple[str, int, int]] = []
        cursor = 0
        while len(spelled) < len(ids):
            here = len(spelled)
            string, n_parts = self._character(ids, alone, here)
            spaced = f" {string}"
            if not whole.startswith(string, cursor) and whole.startswith(spaced, cursor):
                string = spaced
            elif string.startswith("##") and whole.startswith(string[2:], cursor):
                string = string[2:]  # within a word, as WordPiece writes it
            if whole.startswith(string, cursor):
                cursor += len(string)
            spelled.append((string, 1, n_parts))
            spelled += [("", part, n_parts) for part in range(2, n_parts + 1)]
        return spelled

    def _character(self, ids: list[int], alone: list[str], first: int) -> tuple[str, int]:
        """The text that begins with a token, and how many tokens it takes to spell it."""
        if _BROKEN in alone[first]:
            for n_parts in range(2, min(_MOST_PARTS, len(ids) - first) + 1):
                together = self._decode(ids[first : first + n_parts])
                if _BROKEN not in together:
                    return together, n_parts
            return self._replacement(ids, alone, first)
        return alone[first], 1

    def _replacement(self, ids: list[int], alone: list[str], first: int) -> tuple[str, int]:
        """A character that the text itself has lost, or a half of one at its end."""
        n_parts = 1
        while first + n_parts < len(ids) and _BROKEN in alone[first + n_parts]:
            n_parts += 1
        together = self._decode(ids[first : first + n_parts])
        return (together, n_parts) if together.count(_BROKEN) == 1 else (alone[first], 1)

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def _decoded(self, ids: list[int]) -> list[str]:
        """The text of each token by itself."""
        for token in set(ids) - self._strings.keys():
            self._strings[token] = self._decode([token])
        return [self._strings[token] for token in ids]

    def output_of(self, token: str | int) -> int:
        """The number of a logit: that of a token or, where logits are of something else, itself.

        Raises:
            DataError: If there is no such logit.
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
        """What to call some logits: the token that each is of, or the number of the output."""
        if self.cfg.d_vocab_out == self.cfg.d_vocab:
            return self.names(outputs)
        return [f"output {output}" for output in outputs.tolist()]

    def id_of(self, token: str | int) -> int:
        """The id of a single token.

        Raises:
            DataError: If it is not a single token of the model, or there is no tokenizer.
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
        for string in (token, token.strip()):  # some tokenizers put the space in by themselves
            ids = tokenizer(string, add_special_tokens=False)["input_ids"]
            if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
                return ids[0]
        ids = tokenizer.get_vocab()
        if token in ids:
            return ids[token]
        pieces = tokenizer.tokenize(token)
        raise DataError(
            f"{token!r} is not one token of this model, but {pieces}. Pass one token, with the "
            f"space that belongs to it, or its id."
        )


def _whole(number: Any) -> int | None:
    """A whole number of Python, NumPy or torch as an int; None for anything else."""
    try:
        return None if isinstance(number, bool) else operator.index(number)
    except (TypeError, RuntimeError, ValueError):
        return None


def _bytes_name(piece: str) -> str:
    """The bytes of a piece of a byte-level vocabulary, in hexadecimal; "" of another one."""
    by_fallback = re.fullmatch(r"<0x([0-9A-F]{2})>", piece)
    if by_fallback:
        return f"\u27e8{by_fallback[1]}\u27e9"
    numbers = _byte_alphabet()
    if not all(character in numbers for character in piece):
        return ""
    codes = bytes(numbers[character] for character in piece)
    spaces = len(codes) - len(codes.lstrip(b" "))
    return " " * spaces + f"\u27e8{codes[spaces:].hex(' ').upper()}\u27e9"


@cache
def _byte_alphabet() -> dict[str, int]:
    """The byte for which each character stands in a byte-level vocabulary, as GPT-2 began it."""
    written = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in written]
    alphabet = {chr(byte): byte for byte in written}
    return alphabet | {chr(256 + index): byte for index, byte in enumerate(others)}
