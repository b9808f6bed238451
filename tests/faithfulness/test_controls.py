"""What is taken out of texts: every control is what its name says."""

import numpy as np
import pytest

from clvq_lens.errors import DataError
from clvq_lens.faithfulness.controls import (
    Removal,
    WeightedCodebook,
    draw_removals,
    without_directions,
)
from clvq_lens.faithfulness.tokenized_texts import TextCodes

N = 40
USAGE = np.array([100, 90, 0, 500, 480, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1])
CLASSES = np.arange(N) % 2
SALIENT = np.where(CLASSES == 0, np.arange(N) % 4 // 2, 3)  # codes 0 and 1 in one class, or 3


@pytest.fixture
def codebook() -> WeightedCodebook:
    return WeightedCodebook(np.random.default_rng(0).standard_normal((len(USAGE), 6)), USAGE)


@pytest.fixture
def found(codebook) -> dict[str, Removal]:
    of_texts = tuple(np.array([salient, 5, 5, 6]) for salient in SALIENT)
    texts = TextCodes(of_texts, (np.arange(4),) * N)
    random = np.random.default_rng(1)
    each = draw_removals(SALIENT, texts, CLASSES, codebook, n_draws=30, random=random)
    return {removal.condition: removal for removal in each}


def test_the_concept_is_the_code_of_the_salient_token(found, codebook):
    concept = found["concept"]
    assert (concept.codes[:, 0] == SALIENT).all()
    assert np.array_equal(concept.directions[:, 0], codebook.vectors[SALIENT])


def test_no_control_is_the_concept_itself_or_an_unused_code(found):
    for condition, removal in found.items():
        if condition != "concept" and removal.codes is not None:
            assert (removal.codes != SALIENT[:, None]).all(), condition
            assert (removal.codes != 2).all(), condition


def test_random_codes_are_drawn_from_all_in_use(found):
    assert set(found["random code"].codes.ravel().tolist()) == set(range(len(USAGE))) - {2}


def test_share_matched_codes_leave_out_those_of_the_most_different_usage(codebook):
    many = WeightedCodebook(np.zeros((25, 2)), np.array([*[1] * 12, *[100] * 12, 0]))
    texts = TextCodes((np.array([12]),) * 2, (np.array([0]),) * 2)
    random = np.random.default_rng(0)
    classes = np.array([0, 1])
    each = draw_removals(np.array([12, 12]), texts, classes, many, n_draws=50, random=random)
    drawn = next(removal for removal in each if removal.condition == "share-matched code").codes
    assert drawn.min() >= 13  # of the same usage, and never the concept


def test_codes_of_another_class_are_salient_in_its_texts(found):
    assert (found["code of another class"].codes[CLASSES == 0] == 3).all()
    assert set(np.unique(found["code of another class"].codes[CLASSES == 1])) == {0, 1}


def test_other_codes_of_the_text_are_drawn_as_often_as_they_stand_in_it(found):
    drawn = found["another code of the text"].codes
    assert set(np.unique(drawn)) == {5, 6}
    assert 0.6 < (drawn == 5).mean() < 0.73  # two tokens of three


def test_a_text_of_one_code_has_no_other():
    codebook = WeightedCodebook(np.eye(3), np.array([1, 1, 1]))
    texts = TextCodes((np.array([1, 1]),) * 2, (np.arange(2),) * 2)
    random = np.random.default_rng(0)
    each = draw_removals(
        np.array([1, 1]), texts, np.array([0, 1]), codebook, n_draws=3, random=random
    )
    own = next(removal for removal in each if removal.condition == "another code of the text")
    assert (own.codes == 1).all()


def test_centered_directions_lose_the_mean_by_usage_and_random_ones_none(found, codebook):
    mean = np.average(codebook.vectors, axis=0, weights=USAGE)
    assert np.allclose(
        codebook.centered(found["concept"])[:, 0], codebook.vectors[SALIENT] - mean, atol=1e-12
    )
    random = found["random direction"]
    assert np.array_equal(codebook.centered(random), random.directions)


def test_projecting_out_leaves_nothing_along_the_direction_but_the_origin():
    vectors, directions = np.array([[3.0, 4.0]]), np.array([[[2.0, 0.0], [0.0, 5.0]]])
    raw = without_directions(vectors, directions, np.zeros(2))
    assert np.allclose(raw, [[[0, 4], [3, 0]]])
    from_mean = without_directions(vectors, directions, np.array([1.0, 1.0]))
    assert np.allclose(from_mean, [[[1, 4], [3, 1]]])


def test_a_direction_of_length_zero_takes_nothing_out():
    vectors = np.array([[3.0, 4.0]])
    assert np.allclose(without_directions(vectors, np.zeros((1, 1, 2)), np.zeros(2)), vectors)


def test_one_code_in_use_has_no_control():
    codebook = WeightedCodebook(np.eye(2), np.array([7, 0]))
    texts = TextCodes((np.array([0]),) * 2, (np.array([0]),) * 2)
    with pytest.raises(DataError, match="Only one code is in use"):
        draw_removals(
            np.array([0, 0]),
            texts,
            np.array([0, 1]),
            codebook,
            n_draws=1,
            random=np.random.default_rng(0),
        )
