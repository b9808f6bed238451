"""Callback: what a fit tells as it goes on, to whoever keeps it elsewhere."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Literal, Protocol, runtime_checkable

from clvq_lens.arguments import check_is
from clvq_lens.errors import ConfigError, TerminatedError
from clvq_lens.training.history import History, Record

_METHODS = "on_begin, on_record and on_end"


@dataclass(frozen=True, kw_only=True)
class FitStart:
    """What is known when a fit begins.

    Attributes:
        lens: Name of the lens, such as "4-8".
        source: The hook point that is read.
        target: The hook point that is reconstructed.
        config: The options of the quantizer and of the fit by name, as plain values.
        n_tokens: Real tokens to train on in all, repetitions counted.
        resumed_from: Step of the checkpoint that a resumed fit goes on from, 0 if the encoder was
            still trained then; None: the fit begins. Records up to this step are not told again.
            Those that follow are, if the fit was killed after them.
    """

    lens: str
    source: str
    target: str
    config: dict[str, bool | int | float | str | None]
    n_tokens: int
    resumed_from: int | None = None


@dataclass(frozen=True, kw_only=True)
class FitEnd:
    """How a fit ended.

    Attributes:
        stop: "finished", "early" (no more improvement), "interrupted" (Ctrl-C or SIGTERM) or
            "failed".
        best_step: Step whose weights were kept; 0: none were.
        error: What ended the fit; None: it has a result, which it also has after most Ctrl-C.
    """

    stop: Literal["finished", "early", "interrupted", "failed"]
    best_step: int
    error: BaseException | None = None


@runtime_checkable
class Callback(Protocol):
    """Something that is told how a fit goes on; pass it as ``lens.fit(data, callbacks=[...])``.

    Any object with these three methods is one; there is nothing to inherit. An error in one of
    them ends the fit, and the quantizer is what it was before.

    Example:
        >>> class Printing:
        ...     def on_begin(self, start):
        ...         print(start.lens, start.n_tokens)
        ...
        ...     def on_record(self, record):
        ...         print(record.step, record.held_out_fvu)
        ...
        ...     def on_end(self, end):
        ...         print(end.stop, end.best_step)
    """

    def on_begin(self, start: FitStart) -> None:
        """Called once, when the data were opened and nothing was learned yet."""
        ...

    def on_record(self, record: Record) -> None:
        """Called after every validation, with what `History` keeps of it."""
        ...

    def on_end(self, end: FitEnd) -> None:
        """Called once after `on_begin`, however the fit ends, unless the process is killed."""
        ...


def check_callbacks(callbacks: object) -> None:
    """Raises `ConfigError` unless these are callbacks in a list or another sequence."""
    example = "callbacks=[cl.callbacks.JSONLines('fit.jsonl')]"
    check_is("callbacks", callbacks, Sequence, f"Pass a list, such as {example}.")
    for index, callback in enumerate(callbacks if isinstance(callbacks, Sequence) else ()):
        name = f"callbacks[{index}]"
        if isinstance(callback, type):  # has the methods too, but nothing to call them on
            raise ConfigError(f"{name} is the class {callback.__name__}. Pass an object of it.")
        check_is(name, callback, Callback, f"Pass an object with the methods {_METHODS}.")


@contextmanager
def reported(
    callbacks: Sequence[Callback], start: FitStart, history: History
) -> Iterator[Callable[[Record], None]]:
    """While open, a fit goes on; all callbacks hear of its beginning and of its end.

    Args:
        callbacks: What is told.
        start: What is known of the fit.
        history: Says at the end how the fit stopped.

    Returns:
        A function that tells them a record.
    """
    with ExitStack() as begun:
        for callback in callbacks:
            callback.on_begin(start)
            # Those that began are ended, also where another one raises.
            begun.push(partial(_end, callback, history))

        def report(record: Record) -> None:
            for callback in callbacks:
                callback.on_record(record)

        yield report


def _end(
    callback: Callback,
    history: History,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
) -> None:
    """Ends a callback; takes what the exit of a with block is given."""
    if error is None:
        callback.on_end(FitEnd(stop=history.stop, best_step=history.best_step))
        return
    was_interrupted = isinstance(error, KeyboardInterrupt | TerminatedError)
    stop = "interrupted" if was_interrupted else "failed"
    callback.on_end(FitEnd(stop=stop, best_step=history.best_step, error=error))
