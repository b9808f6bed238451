from collections.abc import Iterator
from dataclasses import FrozenInstanceError, asdict, replace

import jaxtyping
import pytest

from clvq_lens.errors import FileFormatError
from clvq_lens.quantizer.origin import Origin

ORIGIN = Origin(
    model_name="gpt2",
    n_layers=12,
    d_model=768,
    d_vocab=50257,
    dtype="float32",
    layer_norm_folded=True,
    weights_centered=True,
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


def test_the_name_of_the_quantizer_may_differ():
    assert ORIGIN.differences(replace(ORIGIN, name="early")) == []


def test_differences_name_the_field_and_both_values():
    other = replace(ORIGIN, d_model=1024, dtype="bfloat16", layer_norm_folded=False)
    assert ORIGIN.differences(other) == [
        "d_model: 768, not 1024",
        "dtype: 'float32', not 'bfloat16'",
        "layer_norm_folded: True, not False",
    ]


@pytest.mark.parametrize("field", [name for name in asdict(ORIGIN) if name != "name"])
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
    [("n_layers", 12.0, "int"), ("d_model", True, "int"), ("dtype", None, "str")],
)
def test_a_field_of_the_wrong_type_is_refused(field: str, value: object, kind: str):
    with pytest.raises(FileFormatError, match=rf"'{field}' is {value!r}, expected {kind}\. Save"):
        Origin.from_dict({**asdict(ORIGIN), field: value})
