"""Dictionaries of features, and codebooks of the strongest ones."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from clvq_lens.baselines.sparse import SparseFeatures, largest, train_
from clvq_lens.config import CLVQConfig
from clvq_lens.errors import ConfigError
from clvq_lens.quantizer.decoders import TableDecoder
from clvq_lens.quantizer.feature_codebook import FeatureCodebook


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def codebook(n_codes: int = 6, d: int = 4) -> FeatureCodebook:
    made = FeatureCodebook(CLVQConfig(n_codes=n_codes, top_k=1), d, generator=generator())
    draws = [torch.randn(*shape, generator=generator(1)) for shape in [(n_codes, d), (n_codes,)]]
    made.take_features_(*draws, torch.full((d,), 3.0))
    return made


def synthetic(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs made of 2 of 24 directions, those directions, and the stronger one of each input."""
    truth = F.normalize(torch.randn(24, 32, generator=generator(5)), dim=1)
    random = generator(seed)
    active = torch.rand(n, 24, generator=random).topk(2, dim=1).indices
    strength = 0.5 + 1.5 * torch.rand(n, 2, generator=random)
    x = (truth[active] * strength.unsqueeze(-1)).sum(1)
    return x, truth, active.gather(1, strength.argmax(1, keepdim=True)).squeeze(1)


@pytest.fixture(scope="module")
def recovered() -> SparseFeatures:
    start, _, _ = synthetic(3_000, seed=9)
    features = SparseFeatures(start, start, 48, n_active=2, generator=generator())
    pairs = ((x, x) for x, _, _ in (synthetic(512, seed=100 + step) for step in range(600)))
    train_(features, pairs, n_tokens=600 * 512, dead_after=5_000, progress=False)
    return features


def test_features_of_sparse_data_are_recovered(recovered: SparseFeatures):
    _, truth, _ = synthetic(1, seed=0)
    cosines = truth @ recovered.decoder.detach().T
    assert (cosines.max(1).values > 0.9).float().mean() > 0.8  # each true one is found
    x, _, _ = synthetic(1_000, seed=1)
    error = (x - recovered(x)).square().sum() / (x - x.mean(0)).square().sum()
    assert error < 0.15


def test_the_code_is_the_strongest_true_feature(recovered: SparseFeatures):
    x, truth, strongest = synthetic(1_000, seed=1)
    named = (truth @ recovered.decoder.detach().T).argmax(0)  # the true one that each stands for
    codes = recovered.preactivations(x).argmax(1)
    assert (named[codes] == strongest).float().mean() > 0.75


def test_decoder_rows_keep_length_one(recovered: SparseFeatures):
    torch.testing.assert_close(recovered.decoder.norm(dim=1), torch.ones(48))


def test_dead_features_come_back():
    """Half of the features begin where no input ever is."""
    x, _, _ = synthetic(4_000, seed=3)
    n_dead = {}
    for dead_after in (1_000, 10**9):
        features = SparseFeatures(x, x, 24, n_active=2, generator=generator())
        with torch.no_grad():
            features.encoder_bias[:12] = -2.0
        pairs = ((part, part) for _ in range(30) for part in x.split(256))
        train_(features, pairs, n_tokens=30 * len(x), dead_after=dead_after, progress=False)
        active = largest(features.preactivations(x), 2) > 0
        n_dead[dead_after] = int((~active.any(0)).sum())
    assert n_dead[1_000] < n_dead[10**9]


def test_the_largest_values_stay_if_positive():
    values = torch.tensor([[3.0, -1.0, 2.0, 1.0], [-1.0, -2.0, -3.0, 0.5]])
    kept = torch.tensor([[3.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.5]])
    torch.testing.assert_close(largest(values, 2), kept)


def test_more_active_features_than_there_are_means_all_of_them():
    x = torch.randn(10, 3, generator=generator())
    assert SparseFeatures(x, x, 5, n_active=32, generator=generator()).n_active == 5


def test_the_code_is_the_most_active_feature_and_not_the_nearest_vector():
    book, z = codebook(), torch.randn(2, 50, 4, generator=generator(2)) + 3
    by_hand = ((z - 3) @ book.weights.T + book.bias).argmax(-1)
    assert torch.equal(book.nearest(z), by_hand)
    assert not torch.equal(book.code_of(z), by_hand)


def test_distance_and_margin_are_of_activations():
    book, z = codebook(), torch.randn(50, 4, generator=generator(2)) + 3
    found, activations = book.nearest_and_margin(z), book.activations(z).sort(1).values
    assert torch.equal(found.codes, book.nearest(z))
    torch.testing.assert_close(found.distance, -activations[:, -1])
    torch.testing.assert_close(found.margin, activations[:, -1] - activations[:, -2])
    alone = codebook(n_codes=1).nearest_and_margin(z)
    assert alone.margin.isinf().all()
    assert not alone.codes.any()


def test_a_table_tells_codes_by_their_vectors():
    book = codebook()
    table = TableDecoder(book, 2)
    table.set_(torch.arange(12.0).view(6, 2))
    assert torch.equal(book.code_of(book.vectors), torch.arange(6))
    torch.testing.assert_close(table(book.vectors.unsqueeze(0))[0], table.table)


def test_features_cannot_be_fitted_as_vectors():
    with pytest.raises(ConfigError, match=r"Features cannot be fitted as code vectors are"):
        codebook().initialize_()
