"""Names of codes where there are several quantizers."""

from collections.abc import Mapping, Sequence

from clvq_lens.arguments import check_is, check_names
from clvq_lens.errors import ConfigError

CodeNames = Mapping[int, str]
"""What codes mean, such as ``lens.concepts(texts).labels()``."""


def names_by_stage(
    labels: Mapping[str, CodeNames] | CodeNames | None, stages: Sequence[str]
) -> dict[str, dict[int, str]]:
    """Names of codes for each quantizer by its name.

    Args:
        labels: In that form already, or of a single quantizer alone.
        stages: Names of the quantizers.

    Raises:
        ConfigError: If they are for other quantizers, or it is not clear for which.
    """
    names: dict[str, dict[int, str]] = {}
    check_is("labels", labels, Mapping | None, "Pass {name of a quantizer: {code: label}}.")
    for key, value in (labels or {}).items():
        if isinstance(value, Mapping) and key in stages:
            check_names(value)
            names[str(key)] = dict(value)
        elif isinstance(value, str) and not isinstance(key, str) and len(stages) == 1:
            names.setdefault(stages[0], {})[key] = value
        else:
            raise ConfigError(
                f"labels have the key {key!r}, but names of codes are given for each quantizer. "
                f"Pass {{name: {{code: label}}}}; the quantizers are {list(stages)}."
            )
    return names
