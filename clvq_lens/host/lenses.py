"""The lenses on a model, by name; the model keeps them outside its parameters and state."""

from typing import Any

from clvq_lens.arguments import check_is
from clvq_lens.errors import NameTakenError
from clvq_lens.host.compiled import uncompiled

_LENSES = "_clvq_lenses"  # attribute of a model


def lenses_of(model: Any) -> dict[str, Any]:
    """The lenses of a model, by name."""
    return uncompiled(model).__dict__.get(_LENSES, {})


def remember_lens(model: Any, name: str, lens: object) -> None:
    """Adds a lens to those of its model."""
    # Past torch's __setattr__, which would register what is kept as a part of the model.
    model.__dict__.setdefault(_LENSES, {})[name] = lens


def forget_lens(model: Any, name: str, lens: object) -> None:
    """Removes a lens from those of its model; the last one leaves no attribute behind."""
    lenses = lenses_of(model)
    if lenses.get(name) is lens:
        del lenses[name]
    if not lenses:
        model.__dict__.pop(_LENSES, None)


def require_free_name(model: Any, name: str | None) -> None:
    """Raises `NameTakenError` if the model has a quantizer of that name; None is always free."""
    check_is("name", name, str | None, "Pass a string, or leave it out.")
    if name in lenses_of(model):
        raise NameTakenError(
            f"This model already has a quantizer named {name!r}. Remove it with "
            f"model.clvqs[{name!r}].remove(), or pass another name=...."
        )


def free_name(model: Any, usual: str) -> str:
    """A name that no lens of the model has: the usual one, or that with a number from 2."""
    taken = lenses_of(model)
    name, number = usual, 1
    while name in taken:
        number += 1
        name = f"{usual} {number}"
    return name
