import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clvq_lens.errors import ConfigError, ShapeError, TooFewTokensError
from clvq_lens.stats.reservoir import Reservoir


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_reservoir_that_is_not_full_holds_everything() -> None:
    rows = torch.randn(30, 4)
    reservoir = Reservoir(50, generator())
    for batch in rows.split(7):
        reservoir.add_(batch)
    (held,) = reservoir.sample()
    assert reservoir.n_seen == len(held) == 30
    assert {tuple(r) for r in held.tolist()} == {tuple(r) for r in rows.tolist()}


def test_every_row_of_a_stream_is_held_equally_often() -> None:
    g, counts, n_samples = generator(), torch.zeros(40), 1000
    rows = torch.arange(40.0).unsqueeze(1)
    for _ in range(n_samples):
        reservoir = Reservoir(10, g)
        for batch in rows.split([3, 17, 1, 19]):
            reservoir.add_(batch)
        counts[reservoir.sample()[0].flatten().long()] += 1
    expected = n_samples * 10 / 40
    # Draws without replacement vary less than a multinomial, by (40 - 10) / (40 - 1).
    chi_square = ((counts - expected) ** 2 / expected).sum() / (30 / 39)
    assert 16 < chi_square < 73  # 39 degrees of freedom: p = 0.0005 on either side


@settings(max_examples=30, deadline=None)
@given(
    capacity=st.integers(1, 30),
    batches=st.lists(st.integers(0, 25), min_size=1, max_size=6),
    seed=st.integers(0, 99),
)
def test_a_reservoir_holds_different_rows_of_the_stream(
    capacity: int, batches: list[int], seed: int
) -> None:
    reservoir, n_rows = Reservoir(capacity, generator(seed)), sum(batches)
    rows = torch.arange(float(n_rows)).unsqueeze(1)
    for batch in rows.split(batches):
        reservoir.add_(batch)
    if n_rows == 0:
        return
    held = reservoir.sample()[0].flatten().long()
    assert len(held) == len(held.unique()) == min(capacity, n_rows)
    assert reservoir.n_seen == n_rows


def test_a_sample_is_a_copy() -> None:
    reservoir = Reservoir(5, generator())
    reservoir.add_(torch.ones(5, 2))
    reservoir.sample()[0].zero_()
    assert reservoir.sample()[0].min() == 1


def test_a_reservoir_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(ConfigError, match="reservoir of 0 rows holds nothing"):
        Reservoir(0, generator())
    reservoir = Reservoir(5, generator())
    with pytest.raises(TooFewTokensError, match=r"has seen no rows\. Call add_"):
        reservoir.sample()
    reservoir.add_(torch.ones(5, 2))
    with pytest.raises(ShapeError, match=r"shape \[3\] came after rows of shape \[2\]"):
        reservoir.add_(torch.ones(5, 3))


def test_columns_stay_together_and_given_keys_decide() -> None:
    keys = torch.from_numpy(np.random.default_rng(0).random(200))
    rows, numbers = torch.randn(200, 3, generator=generator()), torch.arange(200)
    reservoir = Reservoir(20, generator())
    for part in torch.arange(200).split(33):
        reservoir.add_(rows[part], numbers[part], keys=keys[part])
    held, chosen = reservoir.sample()
    assert torch.equal(held, rows[chosen])
    assert torch.equal(reservoir.keys, keys[chosen])
    assert set(chosen.tolist()) == set(keys.argsort()[:20].tolist())
