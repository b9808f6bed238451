"""What ablations cost is measured once for quantizers that have the same target and mean."""

import pytest
import torch

import clvq_lens as cl
from clvq_lens.evaluation.ablation_costs import AblationCosts
from clvq_lens.evaluation.evaluate import evaluate_beside
from clvq_lens.host.host import Host
from tests.conftest import random_model

TRAINING = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(2))
DATA = torch.randint(0, 40, (20, 14), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def lenses() -> list[cl.Lens]:
    """Two fits of other sizes on the same tokens."""
    model = random_model()
    lenses = []
    for name, n_codes in (("one", 12), ("other", 7)):
        lens = model.add_clvq(1, 2, n_codes=n_codes, name=name)
        lens.fit(TRAINING, n_tokens=3_000, batch_tokens=256, progress=False)
        lenses.append(lens)
    return lenses


@pytest.fixture
def runs(monkeypatch) -> list[str]:
    """Gets an item for each pass of the model with its target replaced."""
    calls: list[str] = []
    before = Host.activations_with

    def counted(host, name, *arguments, **options):
        calls.append(name)
        return before(host, name, *arguments, **options)

    monkeypatch.setattr(Host, "activations_with", counted)
    return calls


def evaluated(
    costs: AblationCosts, lens: cl.Lens, data: torch.Tensor = DATA, **options: object
) -> cl.Evaluation:
    options |= {"token_labels": None, "readout": None, "long_texts": "split", "seed": 0}
    return evaluate_beside(costs, lens, data, progress=False, **options)


def test_the_second_of_two_quantizers_takes_the_ablations_of_the_first(lenses, runs):
    one, other = lenses
    costs = AblationCosts()
    evaluated(costs, one)
    n_first = len(runs)
    found = evaluated(costs, other)
    # One batch: spliced, unquantized, and of the first lens the two ablations as well.
    assert (n_first, len(runs) - n_first) == (4, 2)
    alone = other.evaluate(DATA, progress=False)
    for metric in ("ce_mean_ablated", "ce_zero_ablated", "kl_mean_ablated", "ce_loss_recovered"):
        mine, its = getattr(found, metric), getattr(alone, metric)
        assert (mine, mine.low, mine.high) == pytest.approx((its, its.low, its.high), rel=1e-5)
    assert found.ce_spliced == alone.ce_spliced


def test_another_mean_is_another_ablation(lenses, runs):
    one, other = lenses
    costs = AblationCosts()
    evaluated(costs, one)
    other.quantizer.mean_target.mul_(1.01)  # as if it had been fitted on other tokens
    n_first = len(runs)
    found = evaluated(costs, other)
    assert len(runs) - n_first == 4
    assert found.ce_mean_ablated == other.evaluate(DATA, progress=False).ce_mean_ablated


def test_other_tokens_are_measured_anew(lenses, runs):
    costs = AblationCosts()
    evaluated(costs, lenses[0])
    n_first = len(runs)
    found = evaluated(costs, lenses[0], DATA.flip(1))
    assert len(runs) - n_first == 4
    assert found.ce_zero_ablated == lenses[0].evaluate(DATA.flip(1), progress=False).ce_zero_ablated


def test_other_metrics_are_measured_anew(lenses, runs):
    costs = AblationCosts()
    evaluated(costs, lenses[0], metrics=["kl"])
    n_first = len(runs)
    found = evaluated(costs, lenses[0])
    assert (n_first, len(runs) - n_first) == (3, 4)
    assert found.ce_mean_ablated == lenses[0].evaluate(DATA, progress=False).ce_mean_ablated


def test_evaluations_of_a_user_share_nothing(lenses, runs):
    for _ in range(2):
        lenses[0].evaluate(DATA, progress=False)
    assert len(runs) == 8
