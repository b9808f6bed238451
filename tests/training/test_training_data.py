import pytest
import torch

from clvq_lens.data.activations import Activations
from clvq_lens.errors import EmptyCorpusError
from clvq_lens.training.training_data import sample_of

EVERYWHERE = torch.ones(2, 3, dtype=torch.bool)


def batch(start: int, mask: torch.Tensor = EVERYWHERE) -> Activations:
    """Six tokens; the target is minus the source."""
    numbers = torch.arange(start, start + 6).view(2, 3)
    source = numbers.float().unsqueeze(-1)
    return Activations(source, -source, numbers, EVERYWHERE, mask)


def test_a_sample_holds_real_tokens_whose_source_and_target_stay_together():
    mask = EVERYWHERE.clone()
    mask[0] = False
    batches = [batch(0, mask), batch(6)]
    source, target = sample_of(
        batches, 5, "source", "target", generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(source, -target)
    assert len(source.unique()) == 5
    assert source.min() >= 3  # the first three are not real
    (whole,) = sample_of(batches, 100, "target", generator=torch.Generator().manual_seed(0))
    assert sorted(whole.flatten().tolist()) == [-n for n in range(11, 2, -1)]


def test_a_sample_of_no_real_token_is_refused():
    with pytest.raises(EmptyCorpusError, match="The data hold no real token"):
        sample_of([batch(0, ~EVERYWHERE)], 5, "source", generator=torch.Generator())
