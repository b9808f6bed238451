"""The lenses that a comparison is asked about, by name."""

from collections.abc import Mapping, Sequence

from clvq_lens.arguments import check_is
from clvq_lens.errors import DataError
from clvq_lens.lens import Lens

CODES = "codes"
"""What a single lens is called."""


def named_lenses(lenses: Lens | Mapping[str, Lens], *, taken: Sequence[str]) -> dict[str, Lens]:
    """Lenses by name; a single one is called "codes".

    Args:
        lenses: A lens, or several by name.
        taken: Names of the baselines that stand beside them.

    Raises:
        ConfigError: If something else is given.
        DataError: If there is none, or one has the name of a baseline.
    """
    if isinstance(lenses, Lens):
        return {CODES: lenses}
    remedy = "Pass a lens, or {name: lens, ...}."
    check_is("lenses", lenses, Mapping, remedy)
    for lens in lenses.values():
        check_is("One of the lenses", lens, Lens, remedy)
    if not lenses or set(taken) & set(lenses):
        raise DataError(
            f"The lenses are {sorted(lenses)}. Pass at least one, and call none of them by the "
            f"name of a baseline: {', '.join(map(repr, taken))}."
        )
    return dict(lenses)
