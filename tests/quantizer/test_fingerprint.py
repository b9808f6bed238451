"""The fingerprint of a model: what of its weights is the same, rounded, changed, another's."""

from types import SimpleNamespace
from typing import Any

import torch

from clvq_lens.host.weights import sample_weights
from clvq_lens.quantizer.fingerprint import compare


def random_model() -> Any:
    """The weights of a model, where every host has them."""
    generator = torch.Generator().manual_seed(0)

    def matrix(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    blocks = [
        SimpleNamespace(
            attn=SimpleNamespace(**{f"W_{name}": matrix(2, 16, 8) for name in "QKVO"}),
            mlp=SimpleNamespace(W_in=matrix(16, 32), W_out=matrix(32, 16)),
        )
        for _ in range(3)
    ]
    return SimpleNamespace(W_E=matrix(40, 16), blocks=blocks)


def samples(model: Any = None) -> dict[str, list[float]]:
    return sample_weights(model or random_model(), None)


def test_rounding_to_another_dtype_is_no_difference_where_it_is_known():
    mine = samples()
    rounded = {
        name: torch.tensor(values).bfloat16().float().tolist() for name, values in mine.items()
    }
    assert compare(mine, rounded, "float32", "bfloat16").agree
    assert compare(mine, rounded, "bfloat16", "float32").agree
    assert not compare(mine, rounded, "float32", "float32").agree


def test_every_matrix_is_sampled_at_both_ends():
    mine = samples()
    for index in (0, -1):
        model = random_model()
        model.blocks[1].attn.W_V[index] *= 1.01
        found = compare(mine, samples(model), "float32")
        assert (found.n_different, found.matrix) == (1, "blocks.1.attn.W_V")
        assert 0.001 < found.largest < 0.02
        assert "fine-tuned or edited" in str(found)


def test_other_weights_are_another_model():
    mine = samples()
    other = {name: torch.randn(len(values)).tolist() for name, values in mine.items()}
    assert "another model" in str(compare(mine, other, "float32"))


def test_models_without_a_common_matrix_cannot_be_compared():
    assert compare(samples(), {"W_E": [1.0]}, "float32") is None


def test_weights_that_were_never_filled_are_the_same_as_themselves():
    mine = {"W_E": [float("nan"), 0.0, 0.0, 0.0]}
    assert compare(mine, dict(mine), "float32").agree
    assert not compare({"W_E": [0.0] * 4}, {"W_E": [0.0, 0.0, 0.0, 1.0]}, "float32").agree
