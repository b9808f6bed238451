"""Edits as values: equal, hashed, printed, and never changed."""

import dataclasses

import pytest
import torch

import clvq_lens as cl
from clvq_lens.interventions.edit_sequence import Function
from tests.interventions.lenses import (
    CODES,
    run,
)


def unchanged(codes, tokens):
    return codes


def examples():
    return [
        cl.Ablate(3),
        cl.Ablate(3, to="mean"),
        cl.Ablate(3, to="resample"),
        cl.Ablate(3, to="resample", seed=1),
        cl.Ablate([3, 17], at=2),
        cl.Restrict(3),
        cl.Swap(1, 2),
        cl.Swap(2, 1),
        cl.Force(3),
        cl.Force(3, at=[1, 2]),
        cl.Force(3, at=-1),
        cl.Steer(3),
        cl.Steer(3, 2.0),
    ]


def test_edits_are_equal_and_hashed_by_value():
    edits, again = examples(), examples()
    assert edits == again
    assert [hash(edit) for edit in edits] == [hash(edit) for edit in again]
    assert len(set(edits + again)) == len(edits)
    for i, edit in enumerate(edits):
        assert [other == edit for other in again] == [i == j for j in range(len(edits))]


def test_codes_may_come_in_any_form(as_for_a_user):
    forms = [[3, 7], (3, 7), range(3, 8, 4), torch.tensor([3, 7]), iter([3, 7])]
    assert {cl.Ablate(form) for form in forms} == {cl.Ablate([3, 7])}
    assert cl.Ablate(torch.tensor(3)) == cl.Ablate([3]) == cl.Ablate(3)
    assert cl.Force(torch.tensor(3)) == cl.Force(3)
    assert type(cl.Force(torch.tensor(3)).code) is int


@pytest.mark.parametrize("edit", [*examples(), cl.Patch([1, 2])], ids=repr)
def test_edits_cannot_be_changed(edit):
    for f in dataclasses.fields(edit):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(edit, f.name, getattr(edit, f.name))


def test_an_edit_keeps_its_codes_when_the_callers_change(lens, tokens):
    codes = torch.full((12,), 3)
    patch, gone = cl.Patch(codes), [3]
    ablate = cl.Ablate(gone)
    codes += 2
    gone.append(5)
    assert (run(lens, tokens, patch)[CODES] == 3).all()
    assert ablate == cl.Ablate(3)


@pytest.mark.parametrize(
    ("edit", "shown"),
    [
        (cl.Ablate([3, 17], to="mean"), "Ablate(codes=(3, 17), to='mean')"),
        (cl.Ablate(3, "resample", seed=2), "Ablate(codes=(3,), to='resample', seed=2)"),
        (cl.Ablate(range(30)), "Ablate(codes=<int64 [30]>)"),
        (cl.Restrict([1, 2]), "Restrict(codes=(1, 2))"),
        (cl.Swap(1, 2), "Swap(a=1, b=2)"),
        (cl.Force(3, at=slice(1, 4)), "Force(code=3, at=slice(1, 4, None))"),
        (cl.Patch(torch.zeros(2, 5).long()), "Patch(codes=<int64 [2, 5]>)"),
        (cl.Steer(3, -1.5), "Steer(code=3, scale=-1.5)"),
        (Function(unchanged), "Function(function=unchanged)"),
    ],
)
def test_edits_can_be_printed(edit, shown):
    assert repr(edit) == shown


def test_edits_with_slices_and_masks_can_be_keys_and_patches_are_only_themselves():
    assert hash(cl.Force(1, at=slice(0, 3))) == hash(cl.Force(1, at=slice(0, 3)))
    assert {cl.Ablate(1, at=[0, 1]): 1}[cl.Ablate([1], at=torch.tensor([0, 1]))] == 1
    patch = cl.Patch([1, 2])
    assert patch == patch
    assert patch != cl.Patch([1, 2])
    assert len({patch, cl.Patch([3, 4])}) == 2
