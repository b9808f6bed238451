"""The course of a fit in a run of Weights & Biases."""

from dataclasses import asdict
from typing import Any

from clvq_lens.errors import ConfigError, MissingDependencyError
from clvq_lens.training.callback import FitEnd, FitStart
from clvq_lens.training.history import Record


class WandB:
    """Logs each record of a fit to a run of Weights & Biases.

    The fields of a record are curves over steps of the fit, such as "4-8/held_out_fvu" for the lens
    "4-8", so that several lenses and whatever else you log may share a run. A run that is passed
    stays open; one that is begun here is finished with the fit, and marked as failed if the fit
    fails. To go on with a run when a fit is resumed, pass its ``id`` and ``resume="allow"``; what
    the run has already is not logged again.

    Args:
        run: An open run, such as what ``wandb.init()`` returned; None: one is begun for each fit.
        **init_options: Options of ``wandb.init`` for a run that is begun here, such as ``project``,
            ``name`` and ``mode="offline"``.

    Raises:
        MissingDependencyError: If the package wandb is not installed.
        ConfigError: If the run is something else, or there are options though it is open already.

    Example:
        >>> lens.fit(texts, callbacks=[cl.callbacks.WandB(project="concepts")])
    """

    def __init__(self, run: Any = None, **init_options: Any) -> None:
        if run is not None and not hasattr(run, "define_metric"):
            raise ConfigError(
                f"run is of type {type(run).__name__}. Pass what wandb.init() returned, or options "
                f"of wandb.init by name, such as project='concepts'."
            )
        if run is not None and init_options:
            raise ConfigError(
                f"The run is open already, so {', '.join(init_options)} would have no effect. Pass "
                f"either a run or options of wandb.init."
            )
        if run is None:
            _wandb()  # before the fit has read its data
        self._given_run, self._init_options = run, init_options
        self._run: Any = None
        self._lens, self._last_step = "", 0

    def on_begin(self, start: FitStart) -> None:
        """Begins a run unless one was passed, and adds the options of the fit to its config."""
        self._run = self._given_run
        if self._run is None:
            self._run = _wandb().init(**self._init_options)
        self._lens, self._last_step = start.lens, 0
        step_name = f"{start.lens}/step"
        # Curves over steps of the fit, and not of the run, which other things may count on.
        self._run.define_metric(step_name)
        self._run.define_metric(f"{start.lens}/*", step_metric=step_name)
        options = {"source": start.source, "target": start.target, **start.config}
        self._run.config.update({start.lens: options}, allow_val_change=True)
        if start.resumed_from is not None:
            # A fit that was killed may have logged more than its last checkpoint knows.
            self._last_step = self._run.summary.get(step_name) or 0

    def on_record(self, record: Record) -> None:
        """Logs a record, unless the run has it."""
        if record.step <= self._last_step:
            return
        fields: dict[str, int | float] = {}
        for name, value in asdict(record).items():
            if value is not None:
                fields[f"{self._lens}/{name}"] = value
        self._run.log(fields)

    def on_end(self, end: FitEnd) -> None:
        """Notes how the fit ended, and finishes the run if it was begun here."""
        self._run.summary[f"{self._lens}/stop"] = end.stop
        self._run.summary[f"{self._lens}/best_step"] = end.best_step
        if self._given_run is None:
            self._run.finish(exit_code=1 if end.stop == "failed" else 0)
        self._run = None


def _wandb() -> Any:
    """The package wandb.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise MissingDependencyError(
            f"WandB needs the package wandb, which cannot be imported ({error}). Run: pip install "
            f"'wandb>=0.17'"
        ) from error
    return wandb
