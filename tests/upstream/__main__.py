"""``python -m tests.upstream``: TransformerLens' own tests of hooks, with and without clvq_lens.

Takes the source distribution of the installed TransformerLens from the package index, or from a
folder, and runs its tests of hooks twice: without clvq_lens, and with a quantizer on every model
that they build. What passes without has to pass with it, but for the exceptions in
`tests.upstream.suite`.
"""

import argparse
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.upstream.run import MODES, Results, UnreachableError, broken, fetch, file_of, run_modes
from tests.upstream.suite import EXCEPTIONS, FILES, SLOW_FILES

console = Console(width=120)


def main() -> int:
    options = _options()
    shared = Path(os.environ.get("CLVQ_SHARED", Path(__file__).parents[3] / "shared"))
    tokenizer = shared / "tokenizers/gpt2"
    with tempfile.TemporaryDirectory() as folder:
        try:
            root = fetch(version("transformer-lens"), Path(folder), options.sdist)
            if not tokenizer.is_dir():
                raise UnreachableError(f"There is no tokenizer in {tokenizer}; set CLVQ_SHARED.")
        except UnreachableError as reason:
            console.print(f"TransformerLens' own tests were not run. {reason}", markup=False)
            return int(os.environ.get("CI") == "true")
        from tests.upstream.hub import build  # imports transformers, which takes a while

        usual = FILES + SLOW_FILES * options.all
        results = run_modes(root, options.files or usual, build(Path(folder) / "hub", tokenizer))
    return _report(results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.upstream", description=__doc__)
    parser.add_argument("files", nargs="*", help="files of tests instead of the usual ones")
    parser.add_argument("--all", action="store_true", help="the slow files too")
    parser.add_argument("--sdist", type=Path, help="folder that has the source distribution")
    return parser.parse_args()


def _report(results: dict[str, Results]) -> int:
    """Shows what was seen; 1 if clvq_lens broke a test, 0 if not."""
    plain, attached = results["plain"], results["attached"]
    console.print(_table(results))
    console.print(f"models with a quantizer: {attached.attached}")
    for reason, count in attached.left_alone.items():
        console.print(f"models left alone: {count} x {reason}", markup=False)
    failures = 0
    for test in broken(results):
        reason = EXCEPTIONS.get(test)
        failures += reason is None
        console.print(f"{reason or 'BROKEN'}: {test}", markup=False)
    stale = sorted(EXCEPTIONS.keys() & attached.passed())
    for test in stale:
        console.print(f"an exception that is none, take it off the list: {test}", markup=False)
    vacuous = not plain.passed() or not attached.attached
    if vacuous:
        console.print("No test passed, or no model got a quantizer, so nothing was tested.")
    if failures or vacuous:
        console.print(attached.log[-20_000:], markup=False)
    return int(bool(failures or stale or vacuous))


def _table(results: dict[str, Results]) -> Table:
    table = Table("file", *MODES, "seconds", title=f"TransformerLens {version('transformer-lens')}")
    seconds = results["plain"].seconds
    for file in sorted({file_of(test) for test in results["plain"].outcomes}):
        counts = [str(len(result.passed(file))) for result in results.values()]
        table.add_row(file, *counts, f"{seconds.get(f'tests/{file}', 0):.1f}")
    totals = [str(len(result.passed())) for result in results.values()]
    table.add_row("in total", *totals, f"{sum(seconds.values()):.0f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
