"""Names of codes where there are several quantizers."""

from collections.abc import Mapping, Sequence

from clvq_lens.arguments import CodeNames, check_is, check_names
from clvq_lens.errors import ConfigError


def names_by_stage(
    names: Mapping[str, CodeNames] | CodeNames | None, stages: Sequence[str]
) -> dict[str, dict[int, str]]:
    """Names of codes for each quantizer by its name.

    Args:
        names: Names in that form already, or those of a single quantizer alone.
        stages: Names of the quantizers.

    Raises:
        ConfigError: If names are for other quantizers, or it is not clear for which.
    """
    by_stage: dict[str, dict[int, str]] = {}
    check_is("names", names, Mapping | None, "Pass {name of a quantizer: {code: name}}.")
    for key, value in (names or {}).items():
        if isinstance(value, Mapping) and key in stages:
            check_names(value)
            by_stage[str(key)] = dict(value)
        # {17: "animals"} says enough where there is one quantizer that it can be about.
        elif isinstance(value, str) and not isinstance(key, str) and len(stages) == 1:
            by_stage.setdefault(stages[0], {})[key] = value
        else:
            raise ConfigError(
                f"names have the key {key!r}, but names of codes are given for each quantizer. "
                f"Pass {{name: {{code: name}}}}; the quantizers are {list(stages)}."
            )
    return by_stage
