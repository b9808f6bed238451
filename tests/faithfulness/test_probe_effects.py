"""The synthetic case of a shared mean direction, in which raw code vectors flip classes."""

import numpy as np
import pytest

from clvq_lens.faithfulness.classified_texts import ClassifiedTexts
from clvq_lens.faithfulness.controls import WeightedCodebook, draw_removals
from clvq_lens.faithfulness.effect_tables import SMALLEST_EFFECT, tabulate
from clvq_lens.faithfulness.faithfulness import Faithfulness
from clvq_lens.faithfulness.folds import make_folds
from clvq_lens.faithfulness.probe_effects import (
    honest_effects,
    published_effects,
    removed_from_vectors,
)
from clvq_lens.faithfulness.probes import linear_probes, published_probes
from clvq_lens.faithfulness.tokenized_texts import TextCodes

N_TEXTS, WIDTH = 240, 24
N_CODES_OF_CLASS, N_OTHERS = 5, 12


class Synthetic:
    """Sentence vectors that share a large mean and tell their class in two directions.

    Tokens tell it in the first direction alone, and twice as strongly: so subtracting the code of
    a salient token from a sentence vector, which is what projecting out a raw code vector comes to
    where the mean is large, turns the first direction round. The second keeps what it says.
    """

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        classes = np.arange(N_TEXTS) % 2
        sign = 2.0 * classes - 1
        mean, first, second = 30 * np.eye(WIDTH)[0], np.eye(WIDTH)[1], np.eye(WIDTH)[2]
        noise = 0.3 * random.standard_normal((N_TEXTS, WIDTH)) + 0.4 * second * (
            random.standard_normal((N_TEXTS, 1))
        )
        self.vectors = mean + sign[:, None] * (2 * first + second) + noise
        # The first codes tell no class. Of the others, those of one class are nearly the same.
        others = 0.5 * random.standard_normal((N_OTHERS, WIDTH)) * (np.arange(WIDTH) > 2)
        towards = np.repeat([-4.0, 4.0], N_CODES_OF_CLASS)[:, None] * first
        unlike = 0.3 * random.standard_normal((len(towards), WIDTH)) * (np.arange(WIDTH) > 2)
        vectors = mean + np.concatenate([others, towards + unlike])
        self.codebook = WeightedCodebook(vectors, np.full(len(vectors), 100))
        documents = np.arange(N_TEXTS) // 2
        self.texts = ClassifiedTexts(("text",) * N_TEXTS, classes, ("bad", "good"), documents)
        self.salient = (
            N_OTHERS + classes * N_CODES_OF_CLASS + np.arange(N_TEXTS) // 2 % N_CODES_OF_CLASS
        )
        codes: list[np.ndarray] = []
        for text, own in enumerate(self.salient):
            codes.append(np.array([own, text % N_OTHERS]))
        of_texts = TextCodes(tuple(codes), (np.arange(2),) * N_TEXTS)
        self.removals = draw_removals(
            self.salient, of_texts, classes, self.codebook, n_draws=4, random=random
        )

    def judged(self, protocol: str) -> Faithfulness:
        folds = make_folds(self.texts, protocol, n_folds=5, seed=0)
        given = (self.vectors, self.texts, folds)
        if protocol == "paper":
            effects = published_effects(*given, published_probes(*given, seed=0), self.removals)
        else:
            probes = linear_probes(*given, seed=0)
            effects = honest_effects(*given, probes, self.removals, self.codebook, progress=False)
        tables = tabulate(effects, self.texts.documents, self.salient)
        shares = np.bincount(self.texts.classes) / N_TEXTS
        return Faithfulness(
            protocol=protocol,
            n_texts=N_TEXTS,
            n_documents=N_TEXTS // 2,
            n_salient_codes=2 * N_CODES_OF_CLASS,
            n_folds=5,
            chance=shares.max(),
            floor=shares.min(),
            smallest_effect=SMALLEST_EFFECT,
            level=tables.level,
            completeness_error=0.0,
            conditions=tables.conditions,
            contrasts=tables.contrasts,
            texts=tables.conditions,
        )


@pytest.fixture(scope="module")
def synthetic() -> Synthetic:
    return Synthetic()


def accuracy(result: Faithfulness, ablation: str, condition: str, of: str = "accuracy") -> float:
    frame = result.frame().set_index(["ablation", "condition"])
    return frame.loc[(ablation, condition), of]


def test_the_published_protocol_takes_a_flipped_class_for_a_removed_concept(synthetic):
    result = synthetic.judged("paper")
    assert accuracy(result, "", "unperturbed") > 0.99
    assert accuracy(result, "raw", "concept") < 0.05  # far below what knowing nothing gives
    assert accuracy(result, "raw", "random direction") > 0.9  # and its control sees little
    assert result.flips_classes("probe", "raw")


def test_the_honest_protocol_shows_the_flip_and_finds_no_removal(synthetic):
    result = synthetic.judged("honest")
    assert accuracy(result, "raw", "concept", "accuracy_high") < 0.49  # below chance again
    assert accuracy(result, "raw", "concept", "retrained") > 0.99  # but nothing was lost
    assert accuracy(result, "centered", "concept") > 0.95
    assert accuracy(result, "centered", "concept", "retrained") > 0.95
    assert result.flips_classes("probe", "raw")
    assert not result.flips_classes("probe", "centered")
    raw, centered, _ = result.verdict().split("\n")
    assert "classes are flipped" in raw
    assert "classes are flipped" not in centered


def test_a_code_of_the_other_class_removes_the_same_axis_once_the_mean_is_taken_off(synthetic):
    result = synthetic.judged("honest")
    centered = result.specific().query("ablation == 'centered'").set_index("control")
    assert abs(centered.loc["code of another class", "drop"]) < 0.02
    assert result.is_specific("probe", "centered")  # over all controls that name no class
    assert "as much by a code of another class" in result.verdict().split("\n")[1]


class Reader:
    """In place of a probe: shows what it is given."""

    def probabilities(self, vectors: np.ndarray) -> np.ndarray:
        return vectors


def test_centered_directions_go_out_from_the_mean_of_the_texts_that_a_probe_saw():
    vectors = np.array([[3.0, 1], [5, 2], [7, 3], [100, 4]])  # along the direction, and across
    direction = np.tile([2.0, 0], (4, 1, 1))
    folds = [(np.array([0, 1, 2]), np.array([3])), (np.array([3]), np.array([0, 1, 2]))]
    readers = [Reader(), Reader()]
    raw = removed_from_vectors(vectors, direction, folds, readers, from_mean=False)
    assert np.allclose(raw[:, 0], [[0, 1], [0, 2], [0, 3], [0, 4]])
    centered = removed_from_vectors(vectors, direction, folds, readers, from_mean=True)
    assert np.allclose(centered[:, 0], [[100, 1], [100, 2], [100, 3], [5, 4]])
