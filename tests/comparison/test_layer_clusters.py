import numpy as np
import pytest
from tqdm.auto import tqdm

from clvq_lens.comparison.layer_clusters import Clusterings, Partition, clusters_needed
from clvq_lens.comparison.layer_tokens import LayerTokens

RANDOM = np.random.default_rng(0)


def test_every_token_is_replaced_by_the_training_mean_of_its_part():
    train = np.array([[0.0, 0.0], [2.0, 0.0], [10.0, 0.0], [0.0, 4.0]])
    test = np.array([[1.0, 1.0], [10.0, 3.0]])
    partition = Partition(np.array([0, 0, 1, 2]), np.array([0, 1]), 3)
    assert partition.errors(train, test).tolist() == [1.0, 9.0]


def test_a_part_without_a_training_token_has_the_mean_of_all():
    """The common wrong variant leaves it at zero, far from everything."""
    train = np.array([[10.0], [12.0]])
    partition = Partition(np.array([0, 0]), np.array([1]), 2)
    assert partition.errors(train, np.array([[11.0]])).tolist() == [0.0]


def test_shuffled_numbers_are_the_same_numbers():
    partition = Partition(np.arange(50), np.arange(30), 50)
    found = partition.shuffled(np.random.default_rng(0))
    assert sorted(found.train.tolist()) == list(range(50))
    assert sorted(found.test.tolist()) == list(range(30))
    assert found.train.tolist() != list(range(50))


def layer_tokens(a: np.ndarray, b: np.ndarray) -> LayerTokens:
    """Two groups far apart at a; at b, which is a hundred times smaller, two others."""
    layers = {
        "a": (a[:, None] * 100 + RANDOM.normal(size=(100, 3))).astype(np.float32),
        "b": (b[:, None] + RANDOM.normal(size=(100, 3)) / 100).astype(np.float32),
    }
    return LayerTokens(layers, codes={"codes": a}, documents=b)


def clusterings() -> tuple[Clusterings, tuple[LayerTokens, LayerTokens]]:
    a, b = RANDOM.integers(0, 2, (2, 200))
    train = layer_tokens(a[:100], b[:100])
    test = layer_tokens(a[100:], b[100:])
    return Clusterings(train, test, tqdm(total=9, disable=True)), (train, test)


def same(partition: np.ndarray, truth: np.ndarray) -> bool:
    return bool((partition == truth).all() or (partition == 1 - truth).all())


def test_each_layer_is_clustered_on_its_own_and_held_out_tokens_with_it():
    found, (train, test) = clusterings()
    a = found.of_layer("a", 2, seed=0)
    b = found.of_layer("b", 2, seed=0)
    assert same(a.train, train.codes["codes"])
    assert same(a.test, test.codes["codes"])
    assert same(b.train, train.documents)
    assert same(b.test, test.documents)


def test_all_layers_count_alike_whatever_their_norm():
    """The common wrong variant: side by side, the layer of the largest norm decides alone."""
    found, (train, _) = clusterings()
    every = found.of_layers(["a", "b"], 4, seed=0)
    truth = 2 * train.codes["codes"] + train.documents
    pairs = set(zip(every.train.tolist(), truth.tolist(), strict=True))
    assert len(pairs) == 4


def test_the_seed_decides_the_clusters():
    found, _ = clusterings()
    numbers = [found.of_layer("a", 9, seed=seed).train.tolist() for seed in (0, 0, 1)]
    assert numbers[0] == numbers[1]
    assert numbers[0] != numbers[2]


@pytest.mark.parametrize(
    ("fvu", "expected"),
    [(1.0, 1.0), (1.3, 1.0), (0.6, 4.0), (0.5, 8.0), (0.4, 16.0), (0.1, 16.0)],
)
def test_clusters_needed_are_interpolated_over_their_logarithm(fvu, expected):
    needed, beyond = clusters_needed(fvu, np.array([1.0, 0.6, 0.4]), [1, 4, 16])
    assert needed == pytest.approx(expected)
    assert beyond == (fvu == 0.1)


def test_a_size_that_did_worse_than_a_smaller_one_does_not_mislead():
    needed, _ = clusters_needed(0.51, np.array([1.0, 0.5, 0.52, 0.4]), [1, 4, 8, 16])
    assert 1 < needed < 4
