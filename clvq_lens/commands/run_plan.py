"""``clvq-lens plan``: what a fit will take, before it is begun."""

from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape

from clvq_lens.commands.command_model import ModelChoice
from clvq_lens.commands.output import NOTHING, interruptible, print_table
from clvq_lens.config import CLVQConfig, FitConfig
from clvq_lens.errors import ConfigError
from clvq_lens.planning.fit_plan import FitPlan
from clvq_lens.planning.plan import plan


def run_plan(
    model: ModelChoice,
    source: int | str,
    target: int | str,
    data_tokens: int | None,
    *,
    gpu: str | None,
    n_gpus: int,
    context: int,
    options: Mapping[str, object],
    fit_options: Mapping[str, object],
) -> FitPlan:
    """Plans a fit and prints what it will take.

    Args:
        model: The model.
        source: Layer number or hook point that is read.
        target: Layer number or hook point that is reconstructed.
        data_tokens: Tokens of the data; None: as many as are trained on.
        gpu: Kind of GPU to plan for; None: this machine, on which the model is loaded.
        n_gpus: How many of them.
        context: Tokens of a text, about.
        options: Options of `clvq_lens.CLVQConfig` by name.
        fit_options: Options of `clvq_lens.FitConfig` by name.

    Raises:
        ConfigError: If an option is impossible.
        ModelLoadError: If there is no such model, or no configuration of it.
        CommandInterruptedError: On Ctrl-C.
    """
    if gpu is not None and model.device is not None:
        raise ConfigError(
            "--device is where this machine would be measured, and --gpu plans for another one. "
            "Leave one of them out."
        )
    config = CLVQConfig().replace(**options)
    fit = FitConfig().replace(**fit_options)
    with interruptible("loading the model", NOTHING):
        # For GPUs, only the configuration is read, unless it is the toy model, which has no file.
        loaded = model.name
        if gpu is None or model.name == "toy":
            loaded = model.load()
    with interruptible("planning", NOTHING):
        found = plan(
            loaded,
            data_tokens,
            source=source,
            target=target,
            config=config,
            fit=fit,
            context=context,
            gpu=gpu,
            n_gpus=n_gpus,
            dtype=model.dtype if gpu is not None else None,
        )
    console = Console()
    print_table(console, "What a fit will take", found.frame())
    console.print(escape(found.headline()))
    return found
