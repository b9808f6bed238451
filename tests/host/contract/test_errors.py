"""What cannot be is refused with the reason, and the model stays as it was."""

import pytest
import torch

import clvq_lens as cl
from clvq_lens.errors import (
    CodeRangeError,
    ConfigError,
    DetachedError,
    HookNotFoundError,
    HostMismatchError,
    LayerOrderError,
    NameTakenError,
    NotFittedError,
    ShapeError,
)
from tests.host.contract.checks import on_one_kind
from tests.host.states import assert_same_state, state
from tests.hosts import D_VOCAB

PLACES = {
    "typo": ((1, "blocks.2.hook_resid_pree"), HookNotFoundError, r"Closest: 'blocks\.2\.hook_"),
    "nonsense": ((1, "nonsense"), HookNotFoundError, "Pass a layer number"),
    "no-such-layer": ((1, 9), HookNotFoundError, r"No layer 9 .* layers 0 to 3"),
    "negative-layer": ((-1, 2), HookNotFoundError, "No layer -1"),
    "swapped-layers": ((2, 1), LayerOrderError, "swap them"),
    "swapped-names": ((2, "blocks.2.hook_resid_pre"), LayerOrderError, "swap them"),
    "pattern": ((1, "blocks.2.attn.hook_pattern"), ShapeError, "not carry one vector per token"),
    "scores": (("blocks.1.attn.hook_attn_scores", 2), ShapeError, "not carry one vector"),
    "no-target": ((1,), ConfigError, "both source=.* and target="),
}


@pytest.mark.parametrize("name", PLACES)
def test_bad_places_are_refused_and_leave_the_model_as_it_was(model, name):
    arguments, error, message = PLACES[name]
    before = state(model)
    with pytest.raises(error, match=message):
        model.add_clvq(*arguments, n_codes=12)
    assert_same_state(before, state(model))


@on_one_kind
def test_bad_options_are_refused_and_leave_the_model_as_it_was(model):
    before = state(model)
    with pytest.raises(ConfigError, match=r"no option 'n_code'. Closest: 'n_codes'"):
        model.add_clvq(1, 2, n_code=12)
    with pytest.raises(ConfigError, match="does not divide the target width 16"):
        model.add_clvq(1, 2, n_codes=12, decoder_heads=5)
    assert_same_state(before, state(model))


@on_one_kind
def test_a_name_can_be_used_once(model, lens):
    with pytest.raises(NameTakenError, match=r"model.clvqs\['1-2'\].remove"):
        model.add_clvq(1, 2, n_codes=12)
    assert dict(model.clvqs) == {"1-2": lens}


@on_one_kind
def test_verbs_that_need_a_fit_say_so(model, tokens, tmp_path):
    lens = model.add_clvq(1, 2, n_codes=12)
    for verb in (lens.encode, lens.evaluate, lens.concepts):
        with pytest.raises(NotFittedError, match=r"Call lens.fit\(data\) first"):
            verb(tokens)
    for block in (lens.splice(), lens.edit(cl.Force(3)), lens.project_out(3)):
        with pytest.raises(NotFittedError, match="has not been fitted"), block:
            pass
    with pytest.raises(NotFittedError, match="has not been fitted"):
        lens.report(tokens, tmp_path / "report.html")


@on_one_kind
def test_a_removed_lens_says_how_to_attach_it_again(lens, tokens):
    lens.remove()
    for verb in (lens.encode, lens.evaluate, lens.concepts, lens.fit):
        with pytest.raises(DetachedError, match=r"model.add_clvq\(quantizer=lens.quantizer\)"):
            verb(tokens)
    for block in (lens.splice(), lens.edit(cl.Force(3))):
        with pytest.raises(DetachedError, match="'1-2' was removed"), block:
            pass


@on_one_kind
def test_a_code_that_does_not_exist_is_refused(model, lens, tokens):
    plain = model(tokens)
    with pytest.raises(CodeRangeError, match="12"), lens.edit(cl.Force(12)):
        pass
    assert torch.equal(model(tokens), plain)


def test_a_quantizer_refuses_a_model_of_another_dtype(kind, saved):
    other = kind.model(torch.bfloat16)
    before = state(other)
    with pytest.raises(HostMismatchError, match="dtype: 'float32', not 'bfloat16'"):
        other.add_clvq(quantizer=cl.load(saved))
    assert_same_state(before, state(other))


@on_one_kind
def test_a_fitted_quantizer_brings_its_own_places_and_options(model, lens):
    with pytest.raises(ConfigError, match="brings its own source, target and options"):
        model.add_clvq(1, 2, quantizer=lens.quantizer)


def test_the_vocabulary_has_its_own_size(lens):
    with pytest.raises(cl.errors.DataError, match=f"an id from 0 to {D_VOCAB - 1}"):
        lens.host.vocabulary.id_of(D_VOCAB)
