"""Every error this library raises: what was wrong, what was expected, how to fix it.

Each one also inherits the builtin that a caller would guess.
"""


class CLVQError(Exception):
    """Base of every error raised by clvq_lens."""

    def __str__(self) -> str:
        # KeyError would show the repr of the message, with its line breaks as \n.
        return str(self.args[0]) if self.args else ""


class ConfigError(CLVQError, ValueError):
    """An option has an impossible value, or no such option exists."""


class HookNotFoundError(CLVQError, KeyError):
    """The model has no hook point, or no layer, of that name."""


class LayerOrderError(ConfigError):
    """The target lies before the source."""


class NameTakenError(CLVQError, ValueError):
    """Another quantizer on this model already has that name."""


class SpliceConflictError(CLVQError, RuntimeError):
    """Two quantizers would replace the same target at the same time."""


class AlreadyAttachedError(CLVQError, RuntimeError):
    """A quantizer is on a model already, and can be on one only."""


class OpenBlockError(CLVQError, RuntimeError):
    """Something cannot be done while an edit, splice or projection is open."""


class ModeError(CLVQError, RuntimeError):
    """Something cannot be done in the mode that torch is in."""


class DetachedError(CLVQError, RuntimeError):
    """The lens was removed from its model."""


class HostMismatchError(CLVQError, ValueError):
    """The quantizer was fitted on another model, or on other hook points or weights."""


class ModelNeededError(CLVQError, RuntimeError):
    """Something runs the model, and there are only vectors that came from one."""


class UnsupportedHostError(CLVQError, TypeError):
    """A quantizer cannot be attached to the object."""


class UnsupportedSAEError(CLVQError, TypeError):
    """The features of a sparse autoencoder cannot become codes: its kind is not known."""


class NotFittedError(CLVQError, RuntimeError):
    """The quantizer has seen no data yet, so its codes mean nothing."""


class ShapeError(CLVQError, ValueError):
    """A tensor has the wrong shape, width or range."""


class CodeRangeError(CLVQError, IndexError):
    """A code lies outside the codebook, or the edits leave no code to choose."""


class PositionError(CLVQError, IndexError):
    """A position lies beyond the text, or a mask does not fit it."""


class MetricError(CLVQError, ValueError):
    """A metric returned no number, or the same number for the runs to be told apart."""


class DataError(CLVQError, ValueError):
    """The data cannot be read as texts or tokens."""


class EmptyCorpusError(DataError):
    """The data hold no text, or none with a real token in it."""


class TextTooLongError(DataError):
    """A text has more tokens than the model's context."""


class LengthMismatchError(DataError):
    """Two texts that are compared position by position differ in length."""


class NothingChangesError(DataError):
    """An experiment on these texts would change nothing, so its numbers would mean nothing."""


class TooFewTokensError(DataError):
    """There are fewer real tokens than codes to initialize."""


class NonFiniteError(CLVQError, ValueError):
    """Activations hold NaN or infinity."""


class FileFormatError(CLVQError, ValueError):
    """A saved quantizer or comparison is damaged, incomplete or not one of ours."""


class NewerFormatError(FileFormatError):
    """A saved quantizer was written by a newer version of this library."""


class CheckpointError(CLVQError, ValueError):
    """There is no checkpoint to go on with, or it belongs to other work."""


class PathError(CLVQError, OSError):
    """Nothing can be written at a path."""


class PathTakenError(PathError, FileExistsError):
    """Something is there already that writing would destroy."""


class CommandInterruptedError(CLVQError, RuntimeError):
    """Ctrl-C ended a command; the message says what is there already and how to go on."""


class ProcessesError(CLVQError, RuntimeError):
    """Processes that share a fit cannot work together."""


class TerminatedError(CLVQError, RuntimeError):
    """The process was told to end (SIGTERM), and has written a checkpoint."""


class HubError(CLVQError, OSError):
    """The Hub cannot be reached, or refuses."""


class HubNotFoundError(HubError, FileNotFoundError):
    """There is no such repository or revision, or none that may be seen."""


class JudgeError(CLVQError, OSError):
    """The server of a judge cannot be reached, refuses, or says something else."""


class ModelLoadError(CLVQError, OSError):
    """A model cannot be loaded by its name or from a folder."""


class MissingDependencyError(CLVQError, ImportError):
    """An optional package is needed and not installed."""
