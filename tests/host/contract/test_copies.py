"""A copy of a model has lenses of its own; a quantizer is on one model, once."""

import copy
import io
import pickle

import pytest
import torch

import clvq_lens as cl
from clvq_lens.errors import AlreadyAttachedError, OpenBlockError
from tests.host.contract.checks import CODES, codes_of, commonest, on_one_kind
from tests.host.states import assert_same_state, state
from tests.hosts import words


@pytest.fixture(autouse=True)
def _without_gradients(model):
    """A bridge keeps tensors of its last pass, and cannot be copied when they have a graph."""
    with torch.no_grad():
        model(words(1, 3))
        yield


def edited(model, lens, tokens):
    with lens.edit(cl.Swap(*commonest(lens, tokens))):
        return model(tokens)


def test_an_edit_of_a_copy_changes_the_copy_and_not_the_original(model, lens, tokens):
    twin = copy.deepcopy(model)
    theirs = twin.clvqs["1-2"]
    plain, expected = model(tokens), edited(model, lens, tokens)
    with theirs.edit(cl.Swap(*commonest(lens, tokens))):
        assert torch.equal(model(tokens), plain)
        assert torch.equal(twin(tokens), expected)
    with lens.edit(cl.Swap(*commonest(lens, tokens))):
        assert torch.equal(twin(tokens), plain)
    assert torch.equal(codes_of(twin, tokens), codes_of(model, tokens))
    assert theirs.quantizer is not lens.quantizer


def test_a_copy_outlives_the_lens_of_its_original(model, lens, tokens):
    twin, expected = copy.deepcopy(model), edited(model, lens, tokens)
    lens.remove()
    assert torch.equal(twin(tokens), model(tokens))
    assert torch.equal(edited(twin, twin.clvqs["1-2"], tokens), expected)


def test_removing_the_lens_of_a_copy_leaves_no_trace_there(model, lens, tokens):
    twin = copy.deepcopy(model)
    twin.clvqs["1-2"].remove()
    assert torch.equal(twin(tokens), model(tokens))
    assert CODES not in twin.hook_dict
    lens.remove()
    assert set(vars(twin)) == set(vars(copy.deepcopy(model)))


def test_a_lens_can_be_added_to_a_copy(model, lens, tokens):
    twin = copy.deepcopy(model)
    second = twin.add_clvq(quantizer=copy.deepcopy(lens.quantizer), name="second")
    assert set(twin.clvqs) == {"1-2", "second"}
    assert set(model.clvqs) == {"1-2"}
    with second.splice():
        assert torch.equal(model(tokens), model(tokens))
        assert not torch.equal(twin(tokens), model(tokens))


def test_a_model_is_not_copied_while_a_block_is_open(model, lens):
    with lens.splice(), pytest.raises(OpenBlockError, match=r"copy or pickle .*\(splice\)"):
        copy.deepcopy(model)


def can_be_pickled(model):
    try:
        torch.save(model, io.BytesIO())
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True


def test_a_model_with_a_lens_is_pickled_where_one_without_is(kind, model, lens, tokens):
    if not can_be_pickled(kind.model()):  # as bridges of some architectures
        assert not can_be_pickled(model)
        return
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    twin = torch.load(buffer, weights_only=False)
    expected = edited(model, lens, tokens)
    assert torch.equal(edited(twin, twin.clvqs["1-2"], tokens), expected)


@on_one_kind
def test_one_quantizer_is_not_attached_twice(kind, model, lens):
    before = state(model)
    other = kind.model()
    for where in (model, other):
        with pytest.raises(AlreadyAttachedError, match=r"already, as '1-2'. Remove it there"):
            where.add_clvq(quantizer=lens.quantizer, name="again")
    assert_same_state(before, state(model))
    assert not other.clvqs


@on_one_kind
def test_a_quantizer_that_was_removed_or_copied_is_attached(kind, model, lens, tokens):
    expected = edited(model, lens, tokens)
    other = kind.model()
    theirs = other.add_clvq(quantizer=copy.deepcopy(lens.quantizer))
    assert torch.equal(edited(other, theirs, tokens), expected)
    lens.remove()
    again = model.add_clvq(quantizer=lens.quantizer)
    assert torch.equal(edited(model, again, tokens), expected)
