"""Every error says what was wrong in plain words, and is also the builtin a caller would guess."""

import inspect

import pytest

from clvq_lens import errors

BUILTINS = {
    errors.ConfigError: ValueError,
    errors.HookNotFoundError: KeyError,
    errors.LayerOrderError: ValueError,
    errors.NameTakenError: ValueError,
    errors.SpliceConflictError: RuntimeError,
    errors.DetachedError: RuntimeError,
    errors.HostMismatchError: ValueError,
    errors.UnsupportedHostError: TypeError,
    errors.UnsupportedSAEError: TypeError,
    errors.NotFittedError: RuntimeError,
    errors.ShapeError: ValueError,
    errors.DataError: ValueError,
    errors.EmptyCorpusError: ValueError,
    errors.TextTooLongError: ValueError,
    errors.TooFewTokensError: ValueError,
    errors.NonFiniteError: ValueError,
    errors.FileFormatError: ValueError,
    errors.NewerFormatError: ValueError,
    errors.PathError: OSError,
    errors.PathTakenError: FileExistsError,
    errors.CommandInterruptedError: RuntimeError,
    errors.HubError: OSError,
    errors.HubNotFoundError: FileNotFoundError,
    errors.JudgeError: OSError,
    errors.ModelLoadError: OSError,
    errors.MissingDependencyError: ImportError,
}


def every_error() -> list[type[errors.CLVQError]]:
    classes = (value for _, value in inspect.getmembers(errors, inspect.isclass))
    return [c for c in classes if c.__module__ == errors.__name__ and c is not errors.CLVQError]


@pytest.mark.parametrize(("error", "builtin"), BUILTINS.items())
def test_an_error_is_caught_as_ours_and_as_its_builtin(error: type, builtin: type):
    for caught in (errors.CLVQError, builtin):
        with pytest.raises(caught, match="what was wrong"):
            raise error("what was wrong")


@pytest.mark.parametrize("error", every_error())
def test_every_error_inherits_ours_and_a_builtin(error: type):
    assert issubclass(error, errors.CLVQError)
    builtins = {base for base in error.__mro__ if base.__module__ == "builtins"}
    assert builtins - {Exception, BaseException, object}


@pytest.mark.parametrize("error", every_error())
def test_a_message_is_shown_as_written(error: type):
    message = "No layer 'blocks.9'. Closest: 'blocks.8'."  # a bare KeyError shows its repr
    assert str(error(message)) == message


def test_an_error_without_a_message_is_empty():
    assert str(errors.HookNotFoundError()) == ""


@pytest.mark.parametrize(
    ("error", "wider"),
    [
        (errors.LayerOrderError, errors.ConfigError),
        (errors.EmptyCorpusError, errors.DataError),
        (errors.TextTooLongError, errors.DataError),
        (errors.TooFewTokensError, errors.DataError),
        (errors.NewerFormatError, errors.FileFormatError),
    ],
)
def test_a_special_case_is_caught_as_the_general_one(error: type, wider: type):
    assert issubclass(error, wider)
