"""How soon an import, the help and the refusal of a mistake are there.

Times are those of the processor, so that a busy machine counts less; each in a fresh process.
"""

import resource
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.timing import Row

_IMPORTS = "import time; import transformer_lens; t = time.process_time(); import clvq_lens; "
_IMPORTS += "print(time.process_time() - t)"
_FIT = ("fit", "--model", "gpt2", "--source", "4", "--target", "8", "--out", "none", "--data")
_TOML = Path(__file__).parents[1] / "pyproject.toml"
_COMMANDS: dict[str, tuple[tuple[str, ...], float]] = {
    "clvq-lens --help": (("--help",), 0.7),
    "clvq-lens fit --help": (("fit", "--help"), 0.7),
    "an unknown option": ((*_FIT, __file__, "--none", "1"), 1.0),
    "an impossible value": ((*_FIT, __file__, "--n-codes", "0"), 1.0),
    "an unknown key in a file": (("fit", "--config", str(_TOML)), 1.0),
    "a missing file": ((*_FIT, "none.txt"), 1.0),
    "a folder that is no run": (("report", "none"), 1.0),
}
_LIMIT = "most that it may take"


def run(repetitions: int = 5) -> list[Row]:
    """Times beside their limits."""
    times = [_seconds_of_import() for _ in range(repetitions + 1)]
    table = _rows("import clvq_lens beside transformer_lens", times, 0.3)
    for name, (arguments, limit_s) in _COMMANDS.items():
        times = [_seconds_of_command(arguments) for _ in range(repetitions + 1)]
        table += _rows(name, times, limit_s)
    return table


def _rows(name: str, times: list[float], limit_s: float) -> list[Row]:
    median_s = statistics.median(times[1:])  # the first reads the disk
    return [
        Row(name, _LIMIT, limit_s, 1.0),
        Row(name, "time of the processor", median_s, median_s / limit_s),
    ]


def _seconds_of_import() -> float:
    command = [sys.executable, "-W", "ignore", "-c", _IMPORTS]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _seconds_of_command(arguments: tuple[str, ...]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "clvq_lens", *arguments]
    subprocess.run(command, capture_output=True, check=False)  # a refusal ends with a status
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
