"""Texts to tokens and back, on a tokenizer of words and on one of pieces."""

from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from clvq_lens.host.vocabulary import Vocabulary


def test_strings_of_a_text_add_up_to_it(stories_model, stories):
    vocabulary = Vocabulary(stories_model)
    for story in stories[:10]:
        ids = vocabulary.tokenize([story])[0][1:]
        assert "".join(vocabulary.strings(ids)).strip() == story.strip()


def test_strings_are_the_same_the_second_time(stories_model, stories):
    fresh, used = Vocabulary(stories_model), Vocabulary(stories_model)
    for story in stories[:5]:
        ids = used.tokenize([story])[0]
        used.strings(ids.flip(0))
        assert used.strings(ids) == fresh.strings(ids)


def test_names_tell_the_beginning_of_a_word_from_its_middle(stories_model):
    vocabulary = Vocabulary(stories_model)
    ids = stories_model.tokenizer.convert_tokens_to_ids(["\u2581was", "was", "."])
    assert vocabulary.names(torch.tensor([ids[0], ids[2]])) == [" was", "."]


class ByteVocabulary(Vocabulary):
    """Of a byte-level tokenizer: bytes, a space with a first byte, and two bytes of three."""

    def __init__(self) -> None:
        pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "\u0120\u00f0", "\u00e6\u00bc"]
        merges = [("\u0120", "\u00f0"), ("\u00e6", "\u00bc")]
        tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        self.model = SimpleNamespace(tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer))
        self._protocol = SimpleNamespace(bos=("", False), causal=True)  # pyright: ignore
        self._last_spelling = None


@pytest.fixture(scope="module")
def byte_vocabulary() -> Vocabulary:
    return ByteVocabulary()


@pytest.mark.parametrize(
    "text",
    ["a \u6f22!", "\U0001f600\U0001f600", "x \ufffd y", "na\u00efve \U0001f600"],
)
def test_strings_add_up_where_tokens_are_parts_of_characters(byte_vocabulary, text):
    [ids] = byte_vocabulary.tokenize([text])
    assert "".join(byte_vocabulary.strings(ids)) == text
    assert len(byte_vocabulary.strings(ids)) == len(ids)


def test_a_part_of_a_character_is_shown_as_the_character_and_which_part_it_is(byte_vocabulary):
    [ids] = byte_vocabulary.tokenize(["a\u6f22 \U0001f600"])
    assert byte_vocabulary.displayed(ids) == [
        *("a", "\u6f22\u27e81/2\u27e9", "\u6f22\u27e82/2\u27e9"),
        *(f"{' ' * (n == 1)}\U0001f600\u27e8{n}/4\u27e9" for n in range(1, 5)),
    ]


def test_a_part_of_a_character_by_itself_is_called_by_its_bytes(byte_vocabulary):
    [ids] = byte_vocabulary.tokenize(["a\u6f22 \U0001f600"])
    names = byte_vocabulary.names(ids)
    assert names[:4] == ["a", "\u27e8E6 BC\u27e9", "\u27e8A2\u27e9", " \u27e8F0\u27e9"]
    assert not any("\ufffd" in name for name in names)


def test_offsets_point_at_the_text_of_each_real_token(stories_model, stories, toy):
    for model, text in ((stories_model, stories[0][:200]), (toy.model, toy.texts[0])):
        vocabulary = Vocabulary(model)
        ids = vocabulary.tokenize([text])[0]
        strings = [
            string
            for string, token in zip(vocabulary.strings(ids), ids, strict=True)
            if token not in vocabulary.special
        ]
        offsets = vocabulary.offsets([text])[0]
        assert len(offsets) == len(strings)
        for (start, end), string in zip(offsets, strings, strict=True):
            assert text[start:end].strip() == string.strip()


def test_what_no_text_is_made_of_includes_the_unknown_token(toy):
    vocabulary = Vocabulary(toy.model)
    names = toy.model.tokenizer.convert_ids_to_tokens(vocabulary.unwritten.tolist())
    assert set(names) == {"<pad>", "<bos>", "<eos>", "<unk>"}
    assert "<unk>" not in toy.model.tokenizer.convert_ids_to_tokens(vocabulary.special.tolist())


def test_without_a_tokenizer_a_token_is_its_number(model):
    vocabulary = Vocabulary(model)
    assert vocabulary.strings(torch.tensor([3, 17])) == [" 3", " 17"]
    assert vocabulary.names(torch.tensor([3, 17])) == ["3", "17"]
    assert len(vocabulary.unwritten) == 0
