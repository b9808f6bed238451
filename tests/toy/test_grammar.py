import hashlib
import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clvq_lens.errors import DataError
from clvq_lens.toy import entropy, generate, token_labels
from clvq_lens.toy.labeling import parse, told
from clvq_lens.toy.slots import Slot, share, slot


def slots_and_options(seed: int) -> list[tuple[Slot, str]]:
    rng = random.Random(seed)
    seen: list[Slot] = []

    def draw(open_slot: Slot):
        seen.append(open_slot)
        return open_slot.draw(rng.random())

    words = [option.word for option in told(draw)]
    return list(zip(seen, words, strict=True))


def test_the_same_seed_gives_the_same_texts():
    assert generate(50, seed=3) == generate(50, seed=3)


def test_a_seed_gives_the_same_texts_and_concepts_in_every_version():
    """Results that were measured on them name the seed alone."""
    texts = generate(200, seed=0)
    written = "\n".join(texts) + "\n".join(" ".join(concepts) for concepts in token_labels(texts))
    digest = hashlib.sha256(written.encode()).hexdigest()
    assert digest == "3a69ef71382e2d5c486839b81bbb5198de2ed2d35a99e6c0e8ebca627db35b74"


def test_another_seed_gives_other_texts():
    assert not set(generate(200, seed=3)) & set(generate(200, seed=4))


def test_more_texts_begin_with_the_same_texts():
    assert generate(20, seed=3)[:5] == generate(5, seed=3)


def test_texts_are_short_stories_of_varied_words():
    texts = generate(500, seed=0)
    lengths = sorted(len(text.split()) for text in texts)
    words = {word for text in texts for word in text.split()}
    assert lengths[25] >= 25
    assert lengths[475] <= 75
    assert lengths[-1] < 128
    assert 120 <= len(words) <= 220
    assert len(set(texts)) == len(texts)


@settings(deadline=None)  # the first story fills the caches of all slots
@given(st.integers(0, 10_000))
def test_the_probabilities_of_every_slot_add_up_to_one(seed: int):
    for open_slot, _ in slots_and_options(seed):
        assert math.isclose(sum(option.probability for option in open_slot.options), 1)


@settings(deadline=None)  # the first story fills the caches of all slots
@given(st.integers(0, 10_000))
def test_a_text_is_matched_by_the_choices_that_made_it(seed: int):
    made = slots_and_options(seed)
    matched = parse(" ".join(word for _, word in made))
    assert matched == [open_slot.by_word[word] for open_slot, word in made]


def test_words_are_drawn_as_often_as_their_probability_says():
    rng = random.Random(0)
    two = slot(share(["rare"], "", 1.0), share(["common"], "", 3.0))
    n_rare = sum(two.draw(rng.random()).word == "rare" for _ in range(4000))
    assert n_rare / 4000 == pytest.approx(0.25, abs=0.03)


def test_a_draw_at_the_very_end_of_a_slot_is_its_last_word():
    assert slot(share(["a", "b", "c"], "")).draw(1.0).word == "c"


def test_a_slot_with_one_word_twice_is_refused():
    with pytest.raises(AssertionError, match="ambiguous"):
        slot(share(["bank"], "indoor"), share(["bank"], "outdoor"))


def test_entropy_of_a_hand_written_beginning_is_the_product_of_its_choices():
    # four days, "at", four times of day, "we", six professions
    assert entropy(["yesterday at dusk we painters"]) == pytest.approx(math.log(4 * 4 * 6) / 5)


def test_entropy_is_the_expected_surprise_of_the_open_slots():
    # The same quantity from the full distributions instead of the words drawn from them.
    stories = [slots_and_options(seed) for seed in range(400)]
    made = list(itertools.chain(*stories))
    expected = -sum(
        option.probability * math.log(option.probability)
        for open_slot, _ in made
        for option in open_slot.options
    ) / len(made)
    texts = [" ".join(word for _, word in story) for story in stories]
    assert entropy(texts) == pytest.approx(expected, abs=0.02)
    assert 0.5 < expected < 1.5


def test_entropy_of_no_text_says_what_to_pass():
    with pytest.raises(DataError, match="No text to average over"):
        entropy([])
