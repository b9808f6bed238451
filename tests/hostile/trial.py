"""A trial: many cases, each of which ends well, with an error of ours, or is reported.

A case is one call with hostile input. It may end in one of five ways:

fine      It returned, and what it returned holds together.
ours      It raised an error of `clvq_lens.errors` that says what to do, one of the standard
          library's that the call documents, or one that the user's own code had raised.
foreign   It raised anything else.
wrong     It returned something false, or left the model changed.
hang      It did not return in time.

The last three are failures. A trial goes on after them, so that one run shows all.
"""

import os
import random
import re
import signal
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import jaxtyping

from clvq_lens.errors import CLVQError

WHOLE = os.environ.get("CLVQ_HOSTILE") == "whole"  # as `make hostile` sets it
FAILURES = ("foreign", "wrong", "hang")
_LIMIT_S = 60.0
_PACKAGE = f"{os.sep}clvq_lens{os.sep}"
_SENTENCE = re.compile(r"[.:;?](\s|$)")
_Case = TypeVar("_Case")


class UsersOwnError(Exception):
    """Raised by code of the user, such as a hook, who wants to see it; in any case it is fine."""


class Hang(BaseException):
    """A case did not return in time; nothing that catches `Exception` catches it."""


@dataclass(frozen=True)
class Failure:
    """A case that ended badly.

    Attributes:
        how: "foreign", "wrong" or "hang".
        case: What was called, with what.
        cause: What failures with one cause have in common.
        traceback: Of the failure.
    """

    how: str
    case: str
    cause: str
    traceback: str


@dataclass
class Trial:
    """Counts how cases end.

    Attributes:
        watched: Called before and after each case; raises `AssertionError` if the case has left
            something changed.
        endings: How many cases ended how.
        failures: The bad ones.
        turn: Which of the kinds of host it is about.
        n_turns: How many of them take turns.
    """

    watched: Callable[[], Any] = lambda: None
    endings: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    turn: int = 0
    n_turns: int = 1

    def some(self, cases: Sequence[_Case], *, in_ci: int) -> Sequence[_Case]:
        """The cases that meet this kind of host: each meets one of them in the whole run.

        Args:
            cases: All of them.
            in_ci: How many of them are run in CI, over all kinds of host there.
        """
        shuffled = random.Random(0).sample(cases, len(cases))
        mine = shuffled[self.turn :: self.n_turns]
        return mine if WHOLE else mine[: max(1, in_ci // self.n_turns)]

    def run(
        self,
        case: str,
        call: Callable[[], Any],
        check: Callable[[Any], Any] = lambda result: None,
        *,
        documented: tuple[type[Exception], ...] = (),
        limit_s: float = _LIMIT_S,
    ) -> Any:
        """Runs a case and notes how it ended.

        Args:
            case: What is called, with what.
            call: Calls it.
            check: Raises `AssertionError` if what was returned is wrong.
            documented: Errors of the standard library that the call documents.
            limit_s: Seconds after which the case hangs.

        Returns:
            What the call returned, or None.
        """
        result, ending = None, "fine"
        try:
            with _as_users_run_it(), _time_limit(limit_s):
                try:
                    result = call()
                except (UsersOwnError, *documented):
                    ending = "ours"
                except CLVQError as error:
                    ending = "ours"
                    _require_remedy(str(error))
                except TypeError as error:
                    if not _of_paths(str(error)):
                        raise
                    ending = "ours"
                else:
                    check(result)
        except Hang as error:
            ending = self._failed("hang", case, error)
        except AssertionError as error:
            ending = self._failed("wrong", case, error)
        except Exception as error:
            ending = self._failed("foreign", case, error)
        try:
            self.watched()
        except AssertionError as error:
            changed = self._failed("wrong", f"{case} ({ending})", error)
            ending = ending if ending in FAILURES else changed
        self.endings[ending] += 1
        return result

    def _failed(self, how: str, case: str, error: BaseException) -> str:
        text = "".join(traceback.format_exception(error))
        self.failures.append(Failure(how, case, _cause(error), text))
        return how

    def verdict(self) -> str:
        """The failures by cause, each cause with its cases and the traceback of the first."""
        causes: dict[tuple[str, str], list[Failure]] = {}
        for failure in self.failures:
            causes.setdefault((failure.how, failure.cause), []).append(failure)
        parts = [
            f"{how}, {len(group)} cases: {cause}\n"
            + "".join(f"    {failure.case}\n" for failure in group[:5])
            + group[0].traceback
            for (how, cause), group in causes.items()
        ]
        return "\n".join(parts)


def _require_remedy(message: str) -> None:
    """Raises unless a message has a second sentence, clause or hint after the fact."""
    assert len(_SENTENCE.findall(message)) >= 2, f"no remedy in: {message}"


def _of_paths(message: str) -> bool:
    """Whether an error is Python's own word on what is no path."""
    return "os.PathLike object" in message


def shown(value: Any) -> str:
    """A value in one short line, whatever its own repr does."""
    try:
        text = ascii(value)
    except Exception as error:
        text = f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    text = " ".join(text.split())
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"


@contextmanager
def _as_users_run_it() -> Iterator[None]:
    """Without the checks of shapes and types that tests add, and with warnings only shown."""
    checked = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", checked)


@contextmanager
def _time_limit(limit_s: float) -> Iterator[None]:
    assert threading.current_thread() is threading.main_thread()

    def ring(*_: Any) -> None:
        raise Hang(f"not done after {limit_s:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit_s, 5.0)  # again, if something swallows the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _cause(error: BaseException) -> str:
    """Kind of error and the innermost line of ours that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if _PACKAGE in frame.filename]
    first = str(error).strip().split("\n")[0][:160]
    if not ours:
        return f"{type(error).__name__}: {first}"
    place = ours[-1]
    path = Path(place.filename).as_posix().split("/clvq_lens/")[-1]
    return f"{type(error).__name__} in {path}, {place.name}: {first}"
