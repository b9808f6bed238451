"""Linear probes of codes, k-means and activations, on data of one's own and of sae-probes."""

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import clvq_lens as cl
from clvq_lens.data.probing_data_sets import probing_data_sets
from clvq_lens.errors import ConfigError, DataError, HostMismatchError, MissingDependencyError
from tests.hosts import KINDS, words


@pytest.fixture(scope="module")
def lens(toy: Any):
    lens = toy.model.add_clvq(0, 2, n_codes=24, encoder="residual", decoder="table", name="probed")
    lens.fit(toy.texts[:100], n_tokens=4_000, n_evaluations=1, progress=False)
    yield lens
    lens.remove()


@pytest.fixture(scope="module")
def stories() -> dict[str, tuple[list[str], list[Any]]]:
    """Where stories play, which a word tells; and a class that nothing tells."""
    stories = cl.toy.generate(60, seed=9)
    outdoors = [int("outdoor" in labels) for labels in cl.toy.token_labels(stories)]
    nothing = np.random.default_rng(0).permutation(np.arange(60) % 2)
    return {"place": (stories, outdoors), "nothing": (stories, nothing.tolist())}


@pytest.fixture(scope="module")
def probing(lens: cl.Lens, toy: Any, stories: Any) -> cl.Probing:
    return cl.probing(lens, stories, train=toy.texts[:100], n_folds=2, progress=False)


def test_codes_stand_beside_k_means_activations_and_the_largest_class(probing: cl.Probing):
    frame = probing.frame()
    assert probing.methods == ["codes", "k-means", "raw activations", "largest class"]
    assert frame["data_set"].tolist() == ["place"] * 4 + ["nothing"] * 4
    assert (frame["n_texts"] == 60).all()
    assert (frame["accuracy_low"] <= frame["accuracy"]).all()
    assert (frame["accuracy"] <= frame["accuracy_high"]).all()
    assert (frame["accuracy_high"] > frame["accuracy_low"]).any()


def test_what_texts_say_is_found_and_what_they_do_not_say_is_not(probing: cl.Probing):
    accuracy = probing.frame().set_index(["data_set", "method"])["accuracy"]
    assert accuracy["place", "raw activations"] > accuracy["place", "largest class"] + 0.1
    assert abs(accuracy["nothing", "codes"] - 0.5) < 0.25
    assert accuracy["nothing", "largest class"] == 0.5


def test_differences_are_those_of_the_same_texts(probing: cl.Probing):
    frame = probing.frame().set_index(["data_set", "method"])["accuracy"]
    differences = probing.differences().set_index(["data_set", "method"])
    row = differences.loc["place", "codes"]
    expected = frame["place", "codes"] - frame["place", "raw activations"]
    assert row["difference"] == pytest.approx(expected)
    assert row["low"] <= row["difference"] <= row["high"]
    both = differences["difference"].unstack("method")["codes"]
    assert both["all"] == pytest.approx(both[["place", "nothing"]].mean())
    with pytest.raises(ConfigError, match=r"no method 'raw'\. Closest: 'raw activations'|Pass one"):
        probing.differences("raw")


def test_the_summary_is_over_data_sets(probing: cl.Probing):
    row = probing.summary().set_index("method").loc["largest class"]
    values = [float(r.accuracy) for r in probing.results if r.method == "largest class"]
    assert row["accuracy"] == pytest.approx(np.mean(values))
    assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"]
    assert "accuracy on 2 data sets: codes 0." in repr(probing)


def test_the_model_has_no_other_lens_afterwards(probing: cl.Probing, lens: cl.Lens):
    assert set(cl.clvqs(lens.model)) == {"probed"}


def test_the_same_seed_gives_the_same_texts_and_numbers(lens: cl.Lens, stories: Any):
    one = {"place": stories["place"]}
    options: dict[str, Any] = {"n_texts": 40, "n_folds": 2, "sentence": "last", "progress": False}
    first, again = cl.probing(lens, one, **options), cl.probing(lens, one, **options)
    assert first.results == again.results
    assert first.results[0].n_texts == 40
    assert first.methods == ["codes", "raw activations", "largest class"]  # nothing to fit on
    assert np.isnan(first.summary()["accuracy_low"]).all()  # one data set tells nothing of others


def test_lenses_of_several_models_are_refused(lens: cl.Lens, stories: Any):
    other = KINDS[0].model().add_clvq(0, 2, n_codes=4, decoder="table")
    other.fit(words(20, 16), n_tokens=300, batch_tokens=64, progress=False)
    with pytest.raises(HostMismatchError, match=r"The lenses are on several models\. Pass"):
        cl.probing({"a": lens, "b": other}, stories, progress=False)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sentence": "cls"}, ConfigError, r"sentence is 'cls'.*'last', 'mean'"),
        ({"n_texts": 0}, ConfigError, r"n_texts is 0"),
        ({"long_texts": "split"}, ConfigError, r"long_texts is 'split', but here a text counts"),
        ({"data_sets": {"a": ["x"]}}, ConfigError, r"data set 'a' is of type list\. Pass \(texts"),
        ({"data_sets": {"a": (["x"],)}}, DataError, r"data set 'a' has 1 parts\. Pass \(texts"),
        ({"data_sets": {"a": (["x"], [])}}, DataError, r"'a' has 1 texts and 0 classes\. Pass"),
    ],
)
def test_what_cannot_be_is_refused(lens, options, error, message, as_for_a_user):
    with pytest.raises(error, match=message):
        cl.probing(lens, **{"data_sets": {}, **options}, progress=False)


# ---- the package ---------------------------------------------------------------------------------


def write(path: Path, table: dict[str, list[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.output_stream(str(path), compression="zstd") as file:
        file.write(pd.DataFrame(table).to_csv(index=False).encode())


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for sae-probes that must not be imported."""
    folder = tmp_path / "sae_probes"
    names = ["cleaned_data/5_yes.csv", "cleaned_data/7_three.csv", "cleaned_data/8_none.csv"]
    kinds = ["Binary Classification", "Multiclass Classification", "Binary Classification"]
    listed = {"Dataset save name": names, "Data type": kinds}
    write(folder / "data/probing_datasets_MASTER.csv.zst", listed)
    texts = [f"text {number}" for number in range(9)]
    prompts = {"prompt": [*texts, " ", None], "target": [True] * 4 + [False] * 7}
    write(folder / "data/cleaned_data/5_yes.csv.zst", prompts)
    write(folder / "data/cleaned_data/7_three.csv.zst", {"prompt": texts, "target": [*"abc"] * 3})
    (folder / "__init__.py").write_text("raise ImportError('only its data are read')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sae_probes", raising=False)
    importlib.invalidate_caches()


def read(names: list[str] | None, n_texts: int = 100) -> dict[str, Any]:
    return dict(probing_data_sets(names, n_texts=n_texts, seed=0))


def test_data_of_the_package_are_read_and_its_code_is_not(package: None):
    found = read(None)
    assert list(found) == ["5_yes"]  # two classes; and what is listed without a file is not there
    texts, classes = found["5_yes"]
    assert sorted(texts) == [f"text {number}" for number in range(9)]  # the blank ones left out
    assert dict(zip(texts, classes, strict=True))["text 3"] is True
    assert read(["7_three"])["7_three"][1].count("a") == 3
    assert len(read(None, n_texts=5)["5_yes"][0]) == 5


def test_a_data_set_that_the_package_lacks_is_refused(package: None):
    with pytest.raises(ConfigError, match=r"no classes of the name '5_yess'\. Closest: '5_yes'"):
        read(["5_yess"])


def test_without_the_package_the_error_says_how_to_install_it(lens, monkeypatch):
    monkeypatch.setattr("clvq_lens.data.probing_data_sets.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install --no-deps sae-probes"):
        cl.probing(lens, progress=False)


@pytest.mark.skipif(find_spec("sae_probes") is None, reason="sae-probes is not installed")
def test_the_installed_package_has_its_113_sets_of_two_classes():
    names = []
    for name, (texts, classes) in probing_data_sets(None, n_texts=10**6, seed=0):
        assert len(texts) == len(classes) >= 700, name
        assert len(set(classes)) == 2, name
        names.append(name)
    assert len(names) == len(set(names)) == 113
    assert "5_hist_fig_ismale" in names
