"""What is published of a quantizer, on the toy world and a stand-in for the Hub."""

import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import clvq_lens as cl
from benchmarks import publish, releases
from benchmarks.paper import finetune, trials
from benchmarks.releases import Release
from tests.hub.conftest import TOKEN, hub  # noqa: F401  # a fixture
from tests.hub.stand_in import Hub

USER = "somebody"


@pytest.fixture(scope="module")
def trial() -> trials.Trial:
    model, texts = cl.toy.load(n_texts=70)
    return trials.Trial(
        model=model,
        layers=(1, 3),
        n_codes=16,
        train=texts[:60],
        held_out=texts[60:],
        fit=cl.FitConfig(n_tokens=2_000, n_evaluations=1),
    )


@pytest.fixture
def release(
    trial: trials.Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Release]:
    """A release of the toy world, in place of all others, with files of its model."""
    own = tmp_path / "toy"
    own.mkdir()
    (own / "config.json").write_text("{}")
    toy = Release(
        name="clvq-toy",
        trial="toy",
        model="the toy world",
        texts="made up",
        shows_texts=True,
        model_files=lambda: own,
        loading="model = cl.toy.load(n_texts=1).model",
    )
    monkeypatch.setattr(releases, "RELEASES", (toy,))
    monkeypatch.setattr(releases, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(releases, "PAGE", tmp_path / "pretrained.md")
    monkeypatch.setattr(finetune, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(trials, "load", lambda name: trial)
    yield toy
    for lens in list(trial.model.clvqs.values()):
        lens.remove()


def test_a_dry_run_leaves_an_archive_that_loads_as_the_page_says(
    release: Release, trial: trials.Trial, tmp_path: Path
):
    publish.main(["--dry-run", str(tmp_path / "assets")])
    with zipfile.ZipFile(tmp_path / "assets/clvq-toy.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    folder = tmp_path / "unpacked/clvq-toy"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"config.json", "README.md", "ABOUT.md", "report.html", "model/config.json"} <= names
    assert len(names) == 6  # and the weights
    assert "license: mit" in (folder / "README.md").read_text()

    [lens] = trial.model.clvqs.values()
    codes = lens.encode(trial.held_out, progress=False).codes
    lens.remove()
    again = trial.model.add_clvq(quantizer=cl.load(folder))
    assert torch.equal(again.encode(trial.held_out, progress=False).codes, codes)

    page = releases.PAGE.read_text()
    fvu = again.evaluate(trial.held_out, progress=False).fvu
    row = next(line for line in page.splitlines() if line.startswith("| [`clvq-toy`](#clvq-toy)"))
    assert f"| {releases._number((fvu, fvu.low, fvu.high))} |" in row
    assert row.endswith("| not yet |")
    assert 'lens = model.add_clvq(quantizer=cl.load("clvq-toy"))' in page


def test_k_means_beside_it_is_on_equal_terms(release: Release, trial: trials.Trial, tmp_path: Path):
    _, _, measured = publish.assemble(release, tmp_path / "folder")
    [lens] = trial.model.clvqs.values()  # the baseline is gone
    baseline = lens.baseline("k-means", trial.train, trial.fit, decoder="transformer")
    expected = baseline.evaluate(trial.held_out, progress=False)
    assert measured.decoder == lens.quantizer.config.decoder == "transformer"
    assert measured.fvu_k_means[0] == float(expected.fvu)
    assert expected.ce_loss_recovered is not None
    assert measured.ce_loss_recovered_k_means is not None
    assert measured.ce_loss_recovered_k_means[0] == float(expected.ce_loss_recovered)
    weights = [path for path in (tmp_path / "folder").iterdir() if path.suffix == ".safetensors"]
    config = tmp_path / "folder/config.json"
    assert measured.size_bytes == sum(path.stat().st_size for path in [config, *weights])


def test_texts_that_may_not_be_published_are_in_no_report(
    release: Release, trial: trials.Trial, tmp_path: Path
):
    private = replace(release, shows_texts=False, model_files=None)
    publish.assemble(private, tmp_path / "folder")
    names = {path.name for path in (tmp_path / "folder").iterdir()}
    assert not names & {"report.html", "model"}
    assert "README.md" in names


def test_a_folder_of_another_time_is_refused(release: Release, tmp_path: Path):
    with pytest.raises(FileExistsError, match=r"something in .*toy already\. Pass another folder"):
        publish.assemble(release, tmp_path / "toy")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # of the Hub's client itself
def test_a_push_takes_report_and_model_along(
    release: Release,
    trial: trials.Trial,
    hub: Hub,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    publish.main(["clvq-toy", "--user", USER])
    repo = f"{USER}/clvq-toy"
    files = hub.files(repo)
    assert {"config.json", "README.md", "report.html", "model/config.json"} <= set(files)
    assert b"Fitted on made up." in files["ABOUT.md"]
    assert f'cl.load("{repo}")'.encode() in files["README.md"]
    assert cl.load(repo).fitted
    assert f"| [`{repo}`]({hub.address}/{repo}) |" in releases.PAGE.read_text()
    # Measured again, it stays published.
    [measured] = releases.kept()
    releases.keep(replace(measured, published=None))
    assert releases.kept()[0].published == f"{hub.address}/{repo}"


def test_an_unknown_name_is_answered_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"no release 'clvq-gpt5'.*clvq-stories260k, clvq-smollm2"):
        releases.by_name("clvq-gpt5")


def test_a_page_names_what_is_not_made_yet_and_keeps_what_a_person_wrote(release: Release):
    releases.PAGE.write_text(f"# Mine\n\nSaid by me.\n\n{releases._MARK}\n\nold\n")
    publish.main(["--page"])
    page = releases.PAGE.read_text()
    assert page.startswith("# Mine\n\nSaid by me.\n")
    assert "old" not in page
    assert "Not made yet: `clvq-toy`." in page
