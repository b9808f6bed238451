"""Publishes quantizers that benchmarks made, with their reports: ``python -m benchmarks.publish``.

A quantizer is that of the paper's comparison (`benchmarks.paper`), fitted now if that has not been
done. It is evaluated beside k-means with the same kind of decoder, and goes into a folder with its
card, its report and, if nobody else has it, its model. ``--dry-run FOLDER`` leaves that folder and
an archive of it, as an asset of a release, and asks nothing of a network; ``--user NAME`` pushes it
to the Hub. What was measured is kept, and ``docs/pretrained.md`` written from it.
"""

import argparse
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import clvq_lens as cl
from benchmarks import markdown, releases
from benchmarks.paper import trials
from benchmarks.paper.trials import Trial
from benchmarks.releases import Interval, Measured, Release
from clvq_lens.hub.card import card
from clvq_lens.hub.client import client
from clvq_lens.hub_errors import hub_errors

LICENSE = "mit"  # that of this project; models and texts keep theirs
_VERSIONS = ("clvq-lens", "torch", "transformer-lens", "transformers")
_CARD, _ABOUT, _REPORT, _MODEL = "README.md", "ABOUT.md", "report.html", "model"


def assemble(release: Release, folder: Path) -> tuple[cl.Lens, cl.Evaluation, Measured]:
    """Writes everything that is published of a quantizer, and measures it.

    Args:
        release: The quantizer.
        folder: Where to; it must not exist, so that nothing of another time is published.

    Raises:
        FileExistsError: If it does.
    """
    if folder.exists():
        raise FileExistsError(f"There is something in {folder} already. Pass another folder.")
    trial = trials.load(release.trial)
    with trial.reading:
        lens = trials.fitted(trial, release.trial, "predictive")
        evaluation = _evaluated(lens, trial)
        with_k_means = _k_means(lens, trial)
        lens.save(folder)
        size_bytes = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        text = card(lens.quantizer, release.name, evaluation=evaluation, license=LICENSE)
        (folder / _CARD).write_text(text, encoding="utf-8")
        (folder / _ABOUT).write_text(releases.about(release), encoding="utf-8")
        if release.shows_texts:
            page = {"evaluation": evaluation, "long_texts": "truncate"}
            lens.report(trial.held_out, folder / _REPORT, **page)
    if release.model_files is not None:
        (folder / _MODEL).mkdir()
        for path in release.model_files().iterdir():  # without modes: shared files may be read-only
            shutil.copyfile(path, folder / _MODEL / path.name)
    return lens, evaluation, _measured(release, trial, lens, evaluation, with_k_means, size_bytes)


def _evaluated(lens: cl.Lens, trial: Trial, **options: Any) -> cl.Evaluation:
    return lens.evaluate(trial.held_out, long_texts="truncate", **options)


def _k_means(lens: cl.Lens, trial: Trial) -> cl.Evaluation:
    """K-means of the source: as many codes, the same texts, the same kind of decoder."""
    decoder = lens.quantizer.config.decoder
    baseline = lens.baseline("k-means", trial.train, trial.fit, decoder=decoder)
    try:
        return _evaluated(baseline, trial, metrics=["fvu", "ce"])
    finally:
        baseline.remove()


def _measured(
    release: Release,
    trial: Trial,
    lens: cl.Lens,
    evaluation: cl.Evaluation,
    with_k_means: cl.Evaluation,
    size_bytes: int,
) -> Measured:
    return Measured(
        name=release.name,
        model=release.model,
        layers=trial.layers,
        n_codes=lens.quantizer.config.n_codes,
        texts=release.texts,
        n_tokens=evaluation.n_tokens,
        n_documents=evaluation.n_documents,
        fvu=_interval(evaluation.fvu),
        fvu_k_means=_interval(with_k_means.fvu),
        ce_loss_recovered=_if_any(evaluation.ce_loss_recovered),
        ce_loss_recovered_k_means=_if_any(with_k_means.ce_loss_recovered),
        decoder=lens.quantizer.config.decoder,
        size_bytes=size_bytes,
        versions=markdown.versions(_VERSIONS),
    )


def _interval(estimate: Any) -> Interval:
    return float(estimate), estimate.low, estimate.high


def _if_any(estimate: Any) -> Interval | None:
    return None if estimate is None else _interval(estimate)


def dry_run(release: Release, folder: Path) -> Path:
    """Leaves what would be published, and an archive of it; returns the archive."""
    _, _, measured = assemble(release, folder / release.name)
    releases.keep(measured)
    archive = folder / release.name
    return Path(shutil.make_archive(str(archive), "zip", root_dir=folder, base_dir=release.name))


def push(release: Release, user: str) -> str:
    """Pushes a quantizer to the Hub, and then what `push_to_hub` leaves to others.

    Returns:
        The address of the repository.
    """
    repo = f"{user}/{release.name}"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / release.name
        lens, evaluation, measured = assemble(release, folder)
        lens.push_to_hub(repo, evaluation=evaluation, license=LICENSE)
        api = client(None)
        with hub_errors(repo, None, "write"):
            api.upload_folder(
                repo_id=repo,
                folder_path=folder,
                allow_patterns=[_ABOUT, _REPORT, f"{_MODEL}/*"],
                commit_message="How it is loaded, its report, and the model if nobody else has it",
            )
    address = f"{api.endpoint}/{repo}"
    releases.keep(replace(measured, published=address))
    return address


def main(arguments: Sequence[str]) -> None:
    """Publishes the quantizers of some names, or all of them, and writes the page."""
    names = [release.name for release in releases.RELEASES]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.publish",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(names))
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--dry-run", type=Path, metavar="FOLDER", help="publish nothing")
    where.add_argument("--user", metavar="NAME", help="user or organization on the Hub")
    where.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", message="HookedTransformer is deprecated")
    wanted = [] if options.page else [releases.by_name(name) for name in options.names or names]
    for release in wanted:
        if options.user is None:
            print(dry_run(release, options.dry_run))
        else:
            print(push(release, options.user))
    releases.write_page()


if __name__ == "__main__":
    main(sys.argv[1:])
