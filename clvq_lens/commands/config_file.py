"""Files that say what a command is to do, in the place of flags: YAML, TOML or JSON.

Nothing heavy is imported: what is wrong in a file is named at once.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any

from clvq_lens.arguments import closest_name
from clvq_lens.commands.refusals import RUN, RUN_FORMAT_VERSION
from clvq_lens.config import CLVQConfig, FitConfig
from clvq_lens.errors import ConfigError

_MOST_BYTES = 2**20
_SHOWN = 60  # characters of a value in a message
_OF_RUNS_ALONE = ("format", "format_version", "library_version", "toy_texts", "history")
_OF_EACH_CALL = ("config", "json", "overwrite", "resume")

_LAYER = int | str
_MODEL: dict[str, type | UnionType] = {
    "model": str,
    "device": str,
    "dtype": str,
    "prepend_bos": bool,
    "device_map": str,
    "quantize": str,
}
_FIT: dict[str, type | UnionType] = {
    **_MODEL,
    "source": _LAYER,
    "target": _LAYER,
    "data": str,
    "held_out": str,
    "out": str,
    "checkpoint": str,
    "checkpoint_every": int | float,
    "log": str,
    "tensorboard": str,
    "wandb": str,
}
_CACHE: dict[str, type | UnionType] = {
    **_MODEL,
    "point": _LAYER | list,
    "data": str,
    "out": str,
    "n_tokens": int,
    "store_dtype": str,
    "long_texts": str,
    "seed": int,
}
_PLAN: dict[str, type | UnionType] = {
    "data_tokens": int,
    "gpu": str,
    "n_gpus": int,
    "context": int,
}
_OPTIONS = {
    "quantizer": [option.name for option in dataclasses.fields(CLVQConfig)],
    "fit": [option.name for option in dataclasses.fields(FitConfig)],
}
_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True, kw_only=True)
class _Schema:
    """What a file for a command may hold.

    Attributes:
        command: Name of the command.
        kinds: The keys, named as the flags, and what their values are.
        sections: The flag that each option of a section has, if any, by the names of both. Other
            options of the section have none.
        passed_over: Keys without a meaning for this command, in a file that is for another one.
    """

    command: str
    kinds: Mapping[str, type | UnionType]
    sections: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    passed_over: frozenset[str] = frozenset()


_QUANTIZER_FLAGS = {"n_codes": "n_codes", "encoder": "encoder", "decoder": "decoder"}
_SCHEMAS = {
    "fit": _Schema(
        command="fit",
        kinds=_FIT,
        sections={
            "quantizer": _QUANTIZER_FLAGS,
            "fit": {name: name for name in ("n_tokens", "kl_weight", "long_texts", "seed")},
        },
    ),
    # A file for `fit` says nearly all that a plan of that fit has to know.
    "plan": _Schema(
        command="plan",
        kinds={**_FIT, **_PLAN},
        sections={
            "quantizer": _QUANTIZER_FLAGS,
            "fit": {name: name for name in ("n_tokens", "kl_weight")},
        },
        passed_over=frozenset(_FIT) - {"model", "source", "target", "device", "dtype"},
    ),
    "cache": _Schema(command="cache", kinds=_CACHE),
}


@dataclass(frozen=True, kw_only=True)
class FileSettings:
    """What a file says.

    Attributes:
        flags: Values of flags, by the names of the command's parameters.
        quantizer: Options of `clvq_lens.CLVQConfig` that have no flag.
        fit: Options of `clvq_lens.FitConfig` that have no flag.
    """

    flags: Mapping[str, object]
    quantizer: Mapping[str, object] = field(default_factory=dict)
    fit: Mapping[str, object] = field(default_factory=dict)


def read_settings(path: Path, command: str) -> FileSettings:
    """What a file says for a command.

    Args:
        path: A .yaml, .yml, .toml or .json file, among them the run.json of a run.
        command: Name of the command, such as "fit".

    Raises:
        ConfigError: If the file cannot be read, or holds an unknown key, a key twice or a value of
            the wrong type. What its values mean is checked later, with the flags.
    """
    schema = _SCHEMAS[command]
    values = _of_run(path, _parsed(path))
    flags: dict[str, object] = {}
    rest: dict[str, dict[str, object]] = {}
    for key, value in values.items():
        if key in schema.sections:
            rest[key] = _section(path, schema, key, value, flags)
        elif key not in schema.kinds:
            raise ConfigError(f"{path}: {_unknown(key, schema)}")
        elif value is not None and key not in schema.passed_over:
            flags[key] = _checked(path, key, value, schema.kinds[key])
    return FileSettings(flags=flags, **rest)


# ---- keys and values -----------------------------------------------------------------------------


def _section(
    path: Path, schema: _Schema, name: str, section: object, flags: dict[str, object]
) -> dict[str, object]:
    """The options of a section that have no flag; those that have one go to the flags."""
    if section is None:  # a heading with nothing below it
        return {}
    if not isinstance(section, dict):
        raise ConfigError(f"{path}: {name!r} is {_shown(section)}; it is a section of options.")
    rest: dict[str, object] = {}
    for option, value in section.items():
        if option not in _OPTIONS[name]:
            raise ConfigError(f"{path}: {_unknown(option, schema, section=name)}")
        flag = schema.sections[name].get(option)
        if flag is None:
            rest[option] = value
        elif value is not None:
            flags[flag] = _checked(path, option, value, _kind_of_option(option))
    return rest


def _kind_of_option(option: str) -> type | UnionType:
    """The type of an option that has a flag, which would make a text of anything."""
    if option in ("n_codes", "n_tokens", "seed"):
        return int
    return int | float if option == "kl_weight" else str


def _checked(path: Path, key: str, value: object, kind: type | UnionType) -> object:
    """A value as a flag would give it: layers are texts there.

    Raises:
        ConfigError: If it is of another type.
    """
    if isinstance(value, list) and kind == _LAYER | list:
        return [_checked(path, key, point, _LAYER) for point in value]
    kinds = getattr(kind, "__args__", (kind,))
    # True is an int in Python, and never a number that somebody means.
    if not isinstance(value, kind) or (isinstance(value, bool) and bool not in kinds):
        if isinstance(value, list):
            words = "one value"
        else:
            # A whole number is a number, and a list has its own words above.
            named = [
                each for each in kinds if each in _WORDS and not (each is int and float in kinds)
            ]
            words = " or ".join(_WORDS[each] for each in named)
        quotes = " Put it in quotes." if kinds == (str,) and not isinstance(value, list) else ""
        raise ConfigError(
            f"{path}: {key!r} is {_shown(value)}, of type {type(value).__name__}; expected {words}."
            f"{quotes}"
        )
    if kind == _LAYER | list:
        return [str(value)]
    return str(value) if kind == _LAYER else value


def _unknown(key: str, schema: _Schema, *, section: str | None = None) -> str:
    """Why there is no such key, and which is meant."""
    place = "" if section is None else f" in the section {section!r}"
    if key in _OF_EACH_CALL and section is None:
        flag = "pass --config" if key == "config" else f"pass --{key} with the command"
        return f"{key!r} is about a single call and not kept in a file. Leave it out, and {flag}."
    names = dict.fromkeys([*schema.kinds, *schema.sections], "at the top level")
    for name in schema.sections:
        for option in _OPTIONS[name]:
            names.setdefault(option, f"in the section {name!r}")
    if section is not None:  # what it knows itself comes before what others know
        names |= dict.fromkeys(_OPTIONS[section], f"in the section {section!r}")
    if key in names:
        return f"{key!r} stands{place or ' at the top level'}, and belongs {names[key]}. Move it."
    meant = closest_name(key, names)
    closest = "" if meant is None else f" Closest: {meant!r}, {names[meant]}."
    allowed = [*schema.kinds, *schema.sections] if section is None else _OPTIONS[section]
    return (
        f"clvq-lens {schema.command} knows no key {key!r}{place}.{closest} "
        f"Keys{place}: {', '.join(name for name in allowed if name not in schema.passed_over)}."
    )


def _of_run(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The values without what only the file of a run holds."""
    form = values.get("format")
    if form == "clvq_lens":
        raise ConfigError(
            f"{path} describes a quantizer. Pass the {RUN} beside it, which describes the whole "
            f"run."
        )
    if form != "clvq_lens run":
        return values
    # Earlier runs do not say what quantizer was fitted, or where.
    if values.get("format_version") != RUN_FORMAT_VERSION:
        raise ConfigError(
            f"{path} has format version {_shown(values.get('format_version'))}, and only version "
            f"{RUN_FORMAT_VERSION} says all that a fit needs. Fit again, or write its settings to "
            f"a file of your own."
        )
    if values.get("toy_texts") is not None:
        raise ConfigError(
            f"{path} is of clvq-lens demo, which makes its texts itself. Call that, with the same "
            f"--seed."
        )
    kept = {}
    for key, value in values.items():
        if key not in _OF_RUNS_ALONE:
            kept[key] = value
    return kept


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


# ---- files ---------------------------------------------------------------------------------------


def _parsed(path: Path) -> dict[str, Any]:
    """The keys and values of a file, as they stand in it."""
    parse = _PARSERS.get(path.suffix.lower())
    if path.is_dir():
        raise ConfigError(f"{path} is a folder. Pass a file, such as {path / RUN}.")
    if parse is None:
        raise ConfigError(
            f"{path} has the ending {path.suffix!r}. Pass a .yaml, .yml, .toml or .json file."
        )
    if not path.is_file():
        raise ConfigError(f"There is no file {path}. Check the path.")
    if path.stat().st_size > _MOST_BYTES:
        raise ConfigError(f"{path} is larger than a megabyte. Pass a file of settings.")
    try:
        values = parse(path.read_text(encoding="utf-8-sig"))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:  # with the line and column, where there is one
        raise ConfigError(f"{path} cannot be read: {error}. Fix that place.") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} holds {_shown(values)}. Write keys and values, such as model: gpt2."
        )
    return values


def _without_duplicates(pairs: Iterable[tuple[object, object]]) -> dict[object, object]:
    values: dict[object, object] = {}
    for key, value in pairs:
        if not isinstance(key, str):
            raise ConfigError(f"The key {_shown(key)} is no text. Put it in quotes.")
        if key in values:
            raise ConfigError(f"The key {key!r} is there twice. Leave one of them out.")
        values[key] = value
    return values


def _json(text: str) -> object:
    return json.loads(text, object_pairs_hook=_without_duplicates)


def _toml(text: str) -> object:
    import tomllib

    return tomllib.loads(text)  # which refuses duplicates by itself


def _yaml(text: str) -> object:
    import yaml

    from clvq_lens.commands.strict_yaml import StrictLoader

    try:
        return yaml.load(text, StrictLoader)  # a SafeLoader, which makes plain values only
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


_PARSERS: dict[str, Callable[[str], object]] = {
    ".yaml": _yaml,
    ".yml": _yaml,
    ".toml": _toml,
    ".json": _json,
}
