import re
from dataclasses import FrozenInstanceError, asdict, replace

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
    weights={"W_E": [0.5, -0.25, 0.001], "blocks.0.attn.W_Q": [1.0, 0.0, -1.0]},
    source="blocks.4.hook_resid_post",
    target="blocks.8.hook_resid_post",
    name="4-8",
)


pytestmark = pytest.mark.usefixtures("as_for_a_user")


def test_an_origin_does_not_differ_from_itself():
    assert ORIGIN.differences(replace(ORIGIN)) == []


def test_names_may_differ():
    other = replace(ORIGIN, name="early", model_name="openai-community/gpt2", host="a bridge")
    assert ORIGIN.differences(other) == []


def test_differences_name_the_field_and_both_values():
    other = replace(ORIGIN, d_model=1024, layer_norm_folded=False)
    assert ORIGIN.differences(other) == [
        "d_model: 768, not 1024",
        "layer_norm_folded: True, not False",
    ]


def with_values(origin, name="W_E", **values):
    """The same origin with other values of one matrix."""
    changed = list(origin.weights[name])
    for index, value in values.items():
        changed[int(index[1:])] = value
    return replace(origin, weights={**origin.weights, name: changed})


def test_weights_may_differ_by_rounding_only():
    assert ORIGIN.differences(with_values(ORIGIN, _0=0.50001, _1=-0.24999)) == []
    assert ORIGIN.differences(with_values(ORIGIN, _1=-0.2499)) == [
        "weights: not those of 'gpt2'; 1 of 2 sampled matrices differ, most of all W_E "
        "(by 0.0%): fine-tuned or edited"
    ]


def test_any_matrix_of_other_values_tells_another_model():
    other = with_values(ORIGIN, "blocks.0.attn.W_Q", _0=-1.0, _2=1.0)
    assert ORIGIN.differences(other) == [
        "weights: not those of 'gpt2'; 1 of 2 sampled matrices differ, most of all "
        "blocks.0.attn.W_Q (by 200.0%): another model"
    ]


def test_another_dtype_of_the_same_weights_is_told_from_other_weights():
    half = replace(with_values(ORIGIN, _2=0.00100001), dtype="bfloat16")
    assert ORIGIN.differences(half) == [
        "dtype: 'float32', not 'bfloat16' (the weights are the same)"
    ]
    other = with_values(half, _0=0.9)
    assert ORIGIN.differences(other) == ["dtype: 'float32', not 'bfloat16'"]


def test_weights_that_are_no_numbers_are_the_same_as_themselves():
    unfilled = with_values(ORIGIN, _0=float("nan"))
    assert unfilled.differences(replace(unfilled)) == []
    assert unfilled.differences(with_values(unfilled, _0=0.5)) != []


def test_an_origin_that_remembers_no_weights_does_not_compare_them():
    assert replace(ORIGIN, weights={}).differences(ORIGIN) == []


def test_half_precision_rounds_more_but_less_than_one_per_cent():
    half = replace(ORIGIN, dtype="bfloat16")
    rounded = with_values(half, _0=0.5 * (1 + 2**-9), _1=-0.25 * (1 - 2**-9))
    assert half.differences(rounded) == []
    moved = with_values(half, _0=0.5 * 1.01, _1=-0.25 * 1.01, _2=0.001 * 1.01)
    assert half.differences(moved) != []


NAMES = {"name", "model_name", "host", "weights", "dtype"}


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
        *[("weights", 0.5, "dict"), ("weights", {"W_E": ["0.5"]}, "dict")],
    ],
)
def test_a_field_of_the_wrong_type_is_refused(field: str, value: object, kind: str):
    with pytest.raises(
        FileFormatError, match=rf"'{field}' is {re.escape(repr(value))}, expected {kind}\. Save"
    ):
        Origin.from_dict({**asdict(ORIGIN), field: value})


def test_it_shows_itself_in_one_line_and_in_a_table_that_runs_no_script():
    assert repr(ORIGIN) == (
        "Origin('gpt2' (HookedTransformer), "
        "blocks.4.hook_resid_post -> blocks.8.hook_resid_post, float32)"
    )
    hostile = replace(ORIGIN, model_name="<script>\n1</script>", name="<img src=x>")
    assert "\n" not in repr(hostile)
    page = hostile._repr_html_()
    assert "<script>" not in page
    assert "<img" not in page
    assert "<td>sampled matrices</td>" in page
    assert page.count("<tr>") <= 10
