"""The text of each token, also where several tokens together spell one character."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BROKEN = "\ufffd"  # what a decoder writes for bytes that are no character by themselves
_MOST_PARTS = 8  # tokens that spell one character, or two of which one token holds parts


@dataclass(frozen=True)
class SpelledToken:
    """What a token adds to the text of its sequence.

    Attributes:
        text: Its text. Where several tokens spell one character, the first of them has the whole
            character, and the others have nothing.
        part: Which of these tokens it is, from 1.
        n_parts: How many tokens spell the character; 1 for a token that has a text by itself.
    """

    text: str
    part: int = 1
    n_parts: int = 1


class Spelling:
    """Texts of tokens, as a tokenizer decodes them.

    Args:
        tokenizer: The tokenizer.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.tokenizer = tokenizer
        self._alone: dict[int, str] = {}  # texts of single tokens that were decoded before

    def of_sequence(self, ids: list[int]) -> list[SpelledToken]:
        """What each token adds to the text of a sequence.

        Decoding one token at a time loses the spaces that some tokenizers put between tokens, so
        each token is looked up in the decoding of the whole.
        """
        whole = self._decode(ids)
        alone = self.of_tokens(ids)
        spelled: list[SpelledToken] = []
        cursor = 0  # where in the whole the next token begins
        while len(spelled) < len(ids):
            text, n_parts = self._character(ids, alone, first=len(spelled))
            text = _as_in(whole, cursor, text)
            if whole.startswith(text, cursor):
                cursor += len(text)
            spelled.append(SpelledToken(text, 1, n_parts))
            for part in range(2, n_parts + 1):
                spelled.append(SpelledToken("", part, n_parts))
        return spelled

    def of_tokens(self, ids: list[int]) -> list[str]:
        """The text of each token by itself."""
        for token in set(ids) - self._alone.keys():
            self._alone[token] = self._decode([token])
        return [self._alone[token] for token in ids]

    def names(self, ids: list[int]) -> list[str]:
        """What to call each of some unrelated tokens, with the space that belongs to it.

        A part of a character is called by its bytes, as in "\u27e8E6 BC\u27e9".
        """
        pieces = self.tokenizer.convert_ids_to_tokens(ids)
        names = []
        for text, piece in zip(self.of_tokens(ids), pieces, strict=True):
            if _BROKEN in text:
                text = _bytes_name(piece) or text
            elif piece.startswith("\u2581") and not text.startswith(" "):
                text = f" {text}"  # a piece of SentencePiece that begins a word
            names.append(text)
        return names

    def _character(self, ids: list[int], alone: list[str], *, first: int) -> tuple[str, int]:
        """The text that begins with a token, and how many tokens it takes to spell it."""
        if _BROKEN not in alone[first]:
            return alone[first], 1
        for n_parts in range(2, min(_MOST_PARTS, len(ids) - first) + 1):
            together = self._decode(ids[first : first + n_parts])
            if _BROKEN not in together:
                return together, n_parts
        return self._lost_character(ids, alone, first=first)

    def _lost_character(self, ids: list[int], alone: list[str], *, first: int) -> tuple[str, int]:
        """The same for a character that the text itself has lost, or that ends with the text."""
        n_parts = 1
        while first + n_parts < len(ids) and _BROKEN in alone[first + n_parts]:
            n_parts += 1
        together = self._decode(ids[first : first + n_parts])
        return (together, n_parts) if together.count(_BROKEN) == 1 else (alone[first], 1)

    def _decode(self, ids: list[int]) -> str:
        # Cleaning would remove spaces before punctuation, which are in the text.
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def displayed_texts(spelled: Sequence[SpelledToken]) -> list[str]:
    """What to show for each token of a sequence.

    Where several tokens spell one character, each shows the character and which part of it the
    token is, as in "\u6f22\u27e82/3\u27e9".
    """
    displayed: list[str] = []
    character = ""  # the one that the tokens at hand spell
    for token in spelled:
        if token.part == 1:
            character = token.text
        if token.n_parts == 1:
            displayed.append(token.text)
            continue
        space = " " if token.part == 1 and character.startswith(" ") else ""
        mark = f"\u27e8{token.part}/{token.n_parts}\u27e9"
        displayed.append(f"{space}{character.strip(' ')}{mark}")
    return displayed


def _as_in(whole: str, cursor: int, text: str) -> str:
    """The text of a token as it stands at a place in the decoding of its sequence."""
    if not whole.startswith(text, cursor) and whole.startswith(f" {text}", cursor):
        return f" {text}"
    if text.startswith("##") and whole.startswith(text[2:], cursor):
        return text[2:]  # within a word, as WordPiece writes it
    return text


def _bytes_name(piece: str) -> str:
    """The bytes of a piece of a byte-level vocabulary, in hexadecimal; else ""."""
    by_fallback = re.fullmatch(r"<0x([0-9A-F]{2})>", piece)
    if by_fallback:
        return f"\u27e8{by_fallback[1]}\u27e9"
    numbers = _byte_alphabet()
    if not all(character in numbers for character in piece):
        return ""
    codes = bytes(numbers[character] for character in piece)
    n_spaces = len(codes) - len(codes.lstrip(b" "))
    return " " * n_spaces + f"\u27e8{codes[n_spaces:].hex(' ').upper()}\u27e9"


@cache
def _byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for, as in GPT-2's."""
    as_themselves = {*range(33, 127), *range(161, 173), *range(174, 256)}
    alphabet = {chr(byte): byte for byte in as_themselves}
    n_others = 0
    for byte in range(256):
        if byte not in as_themselves:  # control characters and the like, in their order
            alphabet[chr(256 + n_others)] = byte
            n_others += 1
    return alphabet
