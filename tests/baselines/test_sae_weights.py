"""SAEs of other libraries: their features are as active as their own encode says."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from clvq_lens.baselines.sae_weights import sae_weights
from clvq_lens.config import CLVQConfig
from clvq_lens.errors import ConfigError, UnsupportedSAEError
from clvq_lens.quantizer.sae_codebook import SAECodebook
from tests.baselines.saes import N_FEATURES, REAL, STAND_INS, D, OfMatrices, OfSAELens


def tokens() -> torch.Tensor:
    return 2 * torch.randn(400, D, generator=torch.Generator().manual_seed(3)) + 0.5


def codebook(sae: Any, features: torch.Tensor | None = None) -> SAECodebook:
    features = torch.arange(N_FEATURES) if features is None else features
    config = CLVQConfig(n_codes=len(features), top_k=1)
    book = SAECodebook(config, D, generator=torch.Generator())
    book.take_encoder_(sae_weights(sae).encoder, features)
    return book


def encoded(sae: Any, z: torch.Tensor) -> torch.Tensor:
    activations = sae.encode(z)
    if isinstance(activations, torch.Tensor):
        return activations
    dense = torch.zeros(len(z), N_FEATURES)
    return dense.scatter(1, activations[1], activations[0])


def check_strongest(sae: Any) -> None:
    """The code is the argmax of encode, as strong as there, wherever any feature is active."""
    z, book = tokens(), codebook(sae)
    theirs, ours = encoded(sae, z), book.activations(z)
    is_active = theirs.amax(1) > 0
    assert is_active.sum() > 100
    assert torch.equal(book.nearest(z)[is_active], theirs.argmax(1)[is_active])
    where = theirs > 0  # of top-k, those that stayed
    torch.testing.assert_close(ours[where], theirs[where], rtol=1e-4, atol=1e-4)
    if int((theirs > 0).sum(1).max()) > 8:  # nothing was cut off, so zeros are inactive features
        assert (ours[~where] <= 1e-5).all()


@pytest.mark.parametrize("build", STAND_INS.values(), ids=STAND_INS.keys())
def test_the_code_is_what_encode_says_is_strongest(build: Callable[[], Any]):
    check_strongest(build())


@pytest.mark.parametrize("build", REAL.values(), ids=REAL.keys())
def test_the_code_is_what_the_installed_library_says_is_strongest(build: Callable[[], Any]):
    check_strongest(build())


def test_stand_ins_are_told_apart():
    """Each kind has tokens at which another kind's reading of the same weights would be wrong."""
    z = tokens()
    pairs = [
        ("SAELens", "SAELens, nothing subtracted"),
        ("SAELens", "SAELens, jumprelu"),
        ("SAELens", "SAELens, layer norm"),
        ("SAELens, topk", "SAELens, topk, rescaled"),
        ("AutoEncoderTopK", "BatchTopKSAE"),
        ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"),
        ("sparsify", "sparsify, transcoder"),
    ]
    for one, other in pairs:
        first, second = encoded(STAND_INS[one](), z), encoded(STAND_INS[other](), z)
        assert not torch.allclose(first, second), (one, other)


def test_an_active_feature_outranks_a_stronger_one_below_its_threshold():
    sae = OfSAELens("jumprelu", apply_b_dec_to_input=False)
    sae.W_enc.zero_()
    sae.b_enc.fill_(-1.0)
    sae.b_enc[3], sae.threshold[3] = 5.0, 6.0  # strong, and not active
    sae.b_enc[7], sae.threshold[7] = 1.0, 0.5  # weak, and active
    sae.b_enc[9], sae.threshold[9] = 3.0, 3.5  # lacks less than the strong one
    assert codebook(sae).nearest(tokens()).unique().tolist() == [7]
    sae.threshold[7] = 2.0
    assert codebook(sae).nearest(tokens()).unique().tolist() == [9]


def test_some_features_are_a_codebook_of_their_own():
    sae, z = OfSAELens("jumprelu"), tokens()
    features = torch.tensor([5, 17, 40])
    book = codebook(sae, features)
    assert torch.equal(book.features, features)
    torch.testing.assert_close(book.activations(z), codebook(sae).activations(z)[:, features])


def test_an_activation_of_its_own_is_that_of_the_row():
    book, z = codebook(OfSAELens(normalize_activations="layer_norm")), tokens()[:N_FEATURES]
    own = book.activations(z).diagonal()
    where = own > 0  # of others, activations say what they lack
    torch.testing.assert_close(book.own_activations(z)[where], own[where])


def test_features_of_an_sae_are_not_fitted():
    with pytest.raises(ConfigError, match=r"features of an SAE that was trained elsewhere, and"):
        codebook(OfSAELens()).initialize_()


@pytest.mark.parametrize(
    ("sae", "message"),
    [
        (nn.Linear(3, 3), r"Linear has no weights that are known, so its features"),
        (OfSAELens("temporal"), r"architecture 'temporal'.*Known are standard, gated"),
        (OfSAELens("batchtopk"), r"architecture 'batchtopk'.*saved, and loaded as jumprelu"),
        (OfSAELens(activation_fn_str="tanh-relu"), r"activation function 'tanh-relu'"),
        (OfSAELens(finetuning_scaling_factor=True), r"fine-tuned scaling factor"),
        (OfSAELens(reshape_activations="hook_z"), r"reshapes activations \(hook_z\)"),
        (
            OfSAELens(normalize_activations="expected_average_only_in"),
            r"Fold it into the weights first: sae.fold_activation_norm_scaling_factor",
        ),
        (OfSAELens(normalize_activations="of my own"), r"Pass one that normalizes by layer_norm"),
    ],
)
def test_what_is_not_known_is_refused(sae: Any, message: str):
    with pytest.raises(UnsupportedSAEError, match=message):
        sae_weights(sae)


def test_groups_that_are_switched_off_are_refused():
    sae = OfMatrices(groups=True)
    sae.active_groups = 1
    with pytest.raises(UnsupportedSAEError, match="Only 1 of the 2 groups of this SAE are active"):
        sae_weights(sae)


def test_an_sae_of_an_older_sae_lens_says_where_it_reads():
    sae = OfSAELens()
    options = {**vars(sae.cfg), "architecture": "standard", "hook_name": "blocks.1.hook_mlp_out"}
    del options["metadata"]
    sae.cfg = SimpleNamespace(**options)
    assert sae_weights(sae).hook_point == "blocks.1.hook_mlp_out"
    check = codebook(sae).activations(tokens())
    torch.testing.assert_close(check.relu(), OfSAELens().encode(tokens()), rtol=1e-4, atol=1e-4)
