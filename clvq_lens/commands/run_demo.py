"""``clvq-lens demo``: a fit on the toy world."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from clvq_lens import toy
from clvq_lens.add import add_clvq
from clvq_lens.commands.fit_and_write import fit_and_write
from clvq_lens.commands.opened_run import Evaluated
from clvq_lens.commands.output import (
    NOTHING,
    interruptible,
    output_folder,
)
from clvq_lens.commands.run import Run
from clvq_lens.config import CLVQConfig, FitConfig


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Size of the demo: a minute on two cores."""

    source: int = 1
    target: int = 3
    n_texts: int = 3_000
    n_held_out: int = 400
    held_out_seed: int = 1
    n_codes: int = 256
    n_tokens: int = 300_000


DEMO = Demo()


def run_demo(out: Path, *, seed: int, overwrite: bool = False) -> Evaluated:
    """Fits on the toy world and writes the results.

    Args:
        out: Folder for the results.
        seed: Random seed for data order, initialization and sampling.
        overwrite: Whether a quantizer in the folder may be replaced.

    Raises:
        PathTakenError: If the folder holds a quantizer that may not be replaced.
        CommandInterruptedError: On Ctrl-C.
    """
    console = Console()
    console.print("[bold]The toy world:[/] a small language model whose true concepts are known.")
    config = CLVQConfig(n_codes=DEMO.n_codes)
    run = Run(
        model="toy",
        data=None,
        held_out=None,
        source=DEMO.source,
        target=DEMO.target,
        toy_texts=(DEMO.n_held_out, DEMO.held_out_seed),
        quantizer=config,
        config=FitConfig(n_tokens=DEMO.n_tokens, seed=seed),
    )
    with output_folder(out, overwrite=overwrite):
        with interruptible("loading the toy world", NOTHING):
            model, texts = toy.load(n_texts=DEMO.n_texts)
            lens = add_clvq(model, DEMO.source, DEMO.target, config=config)
        return fit_and_write(lens, run, texts, out, console)
