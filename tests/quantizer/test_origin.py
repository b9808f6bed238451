import re
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, asdict, replace

import jaxtyping
import pytest

from clvq_lens.errors import FileFormatError
from clvq_lens.quantizer.origin import Origin

ORIGIN = Origin(
    model_name="gpt2",
    host="HookedTransformer",
    n_layers=12,
    d_model=768,
    d_vocab=50257,
    dtype="float32",
    layer_norm_folded=True,
    weights_centered=True,
    weights=[0.5, -0.25, 0.001],
    source="blocks.4.hook_resid_post",
    target="blocks.8.hook_resid_post",
    name="4-8",
)


@pytest.fixture(autouse=True)
def as_for_a_user() -> Iterator[None]:
    """Turns off the type checks of the test run, which would refuse wrong types before we do."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_an_origin_does_not_differ_from_itself():
    assert ORIGIN.differences(replace(ORIGIN)) == []


def test_names_may_differ():
    other = replace(ORIGIN, name="early", model_name="openai-community/gpt2", host="a bridge")
    assert ORIGIN.differences(other) == []


def test_differences_name_the_field_and_both_values():
    other = replace(ORIGIN, d_model=1024, dtype="bfloat16", layer_norm_folded=False)
    assert ORIGIN.differences(other) == [
        "d_model: 768, not 1024",
        "dtype: 'float32', not 'bfloat16'",
        "layer_norm_folded: True, not False",
    ]


def test_weights_may_differ_by_rounding_only():
    rounded = replace(ORIGIN, weights=[0.50001, -0.24999, 0.001])
    tuned = replace(ORIGIN, weights=[0.5, -0.2499, 0.001])
    assert ORIGIN.differences(rounded) == []
    assert ORIGIN.differences(tuned) == ["weights: those of 'gpt2', not these"]
    assert ORIGIN.differences(replace(ORIGIN, weights=[0.5])) != []


def test_weights_that_are_no_numbers_are_the_same_as_themselves():
    unfilled = replace(ORIGIN, weights=[float("nan"), 1.0])
    assert unfilled.differences(replace(unfilled)) == []
    assert unfilled.differences(replace(unfilled, weights=[0.5, 1.0])) != []


def test_an_origin_that_remembers_no_weights_does_not_compare_them():
    assert replace(ORIGIN, weights=[]).differences(ORIGIN) == []


def test_half_precision_rounds_more():
    half = replace(ORIGIN, dtype="bfloat16")
    assert half.differences(replace(half, weights=[0.505, -0.25, 0.001])) == []
    assert half.differences(replace(half, weights=[0.53, -0.25, 0.001])) != []


NAMES = {"name", "model_name", "host", "weights"}


@pytest.mark.parametrize("field", [name for name in asdict(ORIGIN) if name not in NAMES])
def test_every_other_field_counts(field: str):
    assert len(ORIGIN.differences(replace(ORIGIN, **{field: "another"}))) == 1


def test_an_origin_is_frozen():
    with pytest.raises(FrozenInstanceError, match="d_model"):
        ORIGIN.d_model = 3  # type: ignore[misc]


def test_an_origin_comes_back_from_its_fields():
    assert Origin.from_dict(asdict(ORIGIN)) == ORIGIN


def test_a_missing_field_is_refused():
    values = asdict(ORIGIN)
    del values["dtype"]
    with pytest.raises(
        FileFormatError, match=r"has the fields \['d_model', .*expected \['d_model'"
    ):
        Origin.from_dict(values)


def test_an_unknown_field_is_refused():
    with pytest.raises(FileFormatError, match=r"has the fields .*'mood'.*, expected"):
        Origin.from_dict({**asdict(ORIGIN), "mood": "fine"})


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        *[("n_layers", 12.0, "int"), ("d_model", True, "int"), ("dtype", None, "str")],
        *[("weights", 0.5, "list"), ("weights", ["0.5"], "list")],
    ],
)
def test_a_field_of_the_wrong_type_is_refused(field: str, value: object, kind: str):
    with pytest.raises(
        FileFormatError, match=rf"'{field}' is {re.escape(repr(value))}, expected {kind}\. Save"
    ):
        Origin.from_dict({**asdict(ORIGIN), field: value})
