"""A store holds what the model gives, is filled shard by shard, and goes on after a kill."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import clvq_lens as cl
from clvq_lens import errors
from clvq_lens.data.store import cache
from clvq_lens.data.store.index import INDEX, ShardEntry
from clvq_lens.host.host import Host
from tests.conftest import random_model

POINTS = ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]
GENERATOR = torch.Generator().manual_seed(3)
ROWS = [torch.randint(0, 40, (2 + number % 17,), generator=GENERATOR) for number in range(60)]
OPTIONS: dict[str, Any] = {"points": POINTS, "shard_bytes": 8_000, "progress": False}


def activations_of(store: cl.ActivationStore, point: str) -> dict[int, Tensor]:
    """Of each document."""
    found: dict[int, Tensor] = {}
    for document in store:
        assert document.stored is not None
        pieces = list(document.stored.pieces())
        parts = [document.stored.activations(piece, point) for piece in range(len(pieces))]
        found[document.number] = torch.cat(parts)
    return found


def kill_after(n_shards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the next filling end before the index names one more shard than that."""
    original = ShardEntry.save
    published: list[int] = []

    def save(self: ShardEntry, folder: Path) -> None:
        if len(published) == n_shards:
            raise RuntimeError("killed")
        original(self, folder)
        published.append(1)

    monkeypatch.setattr(ShardEntry, "save", save)


def filled_until_killed(
    model: Any, folder: Path, n_shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fills a folder and ends before the index names one more shard than that."""
    with monkeypatch.context() as patch:
        kill_after(n_shards, patch)
        with pytest.raises(RuntimeError, match="killed"):
            cl.cache_activations(model, ROWS, folder, **OPTIONS)


def test_a_store_holds_what_passes_the_hook_points(tmp_path):
    model = random_model()
    store = cl.cache_activations(model, ROWS, tmp_path, **OPTIONS)
    assert store.n_documents == 60
    assert store.n_tokens == sum(map(len, ROWS))
    assert len(store.index.shards) > 3
    host = Host(model)
    for point in POINTS:
        found = activations_of(store, point)
        for number, row in enumerate(ROWS):
            tokens = row.unsqueeze(0)
            expected = host.activations(tokens, torch.ones_like(tokens, dtype=torch.bool), [point])
            torch.testing.assert_close(found[number], expected[point][0])


def test_layers_and_names_of_hook_points_mean_the_same(tmp_path):
    model = random_model()
    store = cl.cache_activations(model, ROWS, tmp_path, points=[1, POINTS[1]], progress=False)
    assert list(store.points) == POINTS


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_activations_have_the_dtype_that_was_asked_for(tmp_path, dtype: str):
    model = random_model()
    options = {**OPTIONS, "dtype": dtype}
    found = activations_of(cl.cache_activations(model, ROWS, tmp_path / "a", **options), POINTS[0])
    exact = activations_of(cl.cache_activations(model, ROWS, tmp_path / "b", **OPTIONS), POINTS[0])
    for number, values in found.items():
        assert values.dtype == getattr(torch, dtype)
        torch.testing.assert_close(values, exact[number].to(values.dtype))


def test_what_overflows_float16_is_refused(tmp_path):
    model = random_model()
    with torch.no_grad():
        model.W_E.mul_(1e6)
    with pytest.raises(errors.NonFiniteError, match="float16 overflows where bfloat16 does not"):
        cl.cache_activations(model, ROWS, tmp_path, **{**OPTIONS, "dtype": "float16"})


def test_after_a_kill_it_goes_on_and_ends_with_the_same_bytes(tmp_path, monkeypatch):
    model = random_model()
    whole = cl.cache_activations(model, ROWS, tmp_path / "whole", **OPTIONS)
    filled_until_killed(model, tmp_path / "killed", 2, monkeypatch)
    unfinished = cl.ActivationStore(tmp_path / "killed")
    assert len(unfinished.index.shards) == 2
    assert "unfinished" in repr(unfinished)
    passes: list[int] = []
    read = cache.read

    def counted(*args: Any) -> Any:
        passes.append(1)
        return read(*args)

    monkeypatch.setattr(cache, "read", counted)
    resumed = cl.cache_activations(model, ROWS, tmp_path / "killed", **OPTIONS)
    assert resumed.index == whole.index  # with checksums of all shards
    assert "unfinished" not in repr(resumed)
    n_passes = len(passes)
    assert cl.cache_activations(model, ROWS, tmp_path / "killed", **OPTIONS).index == whole.index
    assert len(passes) == n_passes  # nothing was left to read


def test_a_shard_that_was_written_but_not_named_is_written_again(tmp_path, monkeypatch):
    model = random_model()
    whole = cl.cache_activations(model, ROWS, tmp_path / "whole", **OPTIONS)
    filled_until_killed(model, tmp_path / "killed", 1, monkeypatch)
    (tmp_path / "killed" / "shard-000001.safetensors").write_bytes(b"half of a shard")
    resumed = cl.cache_activations(model, ROWS, tmp_path / "killed", **OPTIONS)
    assert resumed.index == whole.index


def test_ctrl_c_leaves_whole_shards_and_no_trace_of_the_last(tmp_path, monkeypatch, ctrl_c):
    model = random_model()
    original = ShardEntry.save

    def save(self: ShardEntry, folder: Path) -> None:
        original(self, folder)
        ctrl_c()

    with monkeypatch.context() as patch:
        patch.setattr(ShardEntry, "save", save)
        store = cl.cache_activations(model, ROWS, tmp_path, **OPTIONS)
    assert len(store.index.shards) == 1
    assert not store.index.complete
    expected = [INDEX, "shard-000000.json", "shard-000000.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == expected


def test_a_draw_is_as_large_as_asked_for_and_can_be_enlarged(tmp_path):
    model = random_model()
    options = {**OPTIONS, "shard_bytes": 3_000}
    few = cl.cache_activations(model, ROWS, tmp_path, n_tokens=100, **options)
    assert 100 <= few.n_tokens < 120
    numbers = [document.number for document in few]
    assert numbers != sorted(numbers)
    more = cl.cache_activations(model, ROWS, tmp_path, n_tokens=300, **options)
    assert 300 <= more.n_tokens < 320
    assert [document.number for document in more][: len(numbers)] == numbers
    assert len({document.number for document in more}) == more.n_documents


def test_long_documents_keep_their_pieces(tmp_path):
    model = random_model(n_ctx=16)
    rows = [torch.randint(0, 40, (50,), generator=GENERATOR), *ROWS[:5]]
    store = cl.cache_activations(model, rows, tmp_path, **OPTIONS)
    assert store.n_documents == 6
    first = next(iter(store))
    assert first.stored is not None
    pieces = list(first.stored.pieces())
    assert [len(ids) for ids, _ in pieces] == [16, 16, 16, 2]
    assert [part.piece for _, part in pieces] == [0, 1, 2, 3]
    assert [part.n_before for _, part in pieces] == [0, 16, 32, 48]
    assert torch.equal(torch.cat([ids for ids, _ in pieces]), rows[0])


# ---- what is refused ----------------------------------------------------------------------------


def test_texts_that_differ_in_white_space_are_other_data(tmp_path):
    texts, model = ["one two", "three four", "five"] * 20, cl.toy.load(n_texts=1).model
    options: dict[str, Any] = {"points": [1], "shard_bytes": 8_000, "progress": False}
    store = cl.cache_activations(model, texts, tmp_path, **options)
    (tmp_path / store.index.shards[-1].file).with_suffix(".json").unlink()
    spaced = [text.replace(" ", "  ") for text in texts]
    with pytest.raises(errors.DataError, match="was filled from other data, or in another order"):
        cl.cache_activations(model, spaced, tmp_path, **options)


def test_the_size_of_a_small_corpus_is_that_of_all_of_it(tmp_path, monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr(cache, "check_space", lambda _, size_bytes: asked.append(size_bytes))
    store = cl.cache_activations(random_model(), ROWS, tmp_path / "all", **OPTIONS)
    cl.cache_activations(random_model(), ROWS, tmp_path / "more", n_tokens=10**6, **OPTIONS)
    cl.cache_activations(random_model(), ROWS, tmp_path / "few", n_tokens=60, **OPTIONS)
    everything, more, few = asked
    assert everything == more == pytest.approx(store.index.size_bytes, rel=0.3)
    assert few == pytest.approx(everything * 60 / store.n_tokens)


def test_another_corpus_is_refused(tmp_path, monkeypatch):
    model = random_model()
    filled_until_killed(model, tmp_path, 2, monkeypatch)
    with pytest.raises(errors.DataError, match="was filled from other data"):
        cl.cache_activations(model, ROWS[::-1], tmp_path, **OPTIONS)
    with pytest.raises(errors.DataError, match="was filled from other data"):
        cl.cache_activations(model, ROWS[:3], tmp_path, **OPTIONS)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"points": [2]}, "points: .*blocks.2"),
        ({"dtype": "bfloat16"}, "dtype: 'bfloat16', not 'float32'"),
        ({"long_texts": "truncate"}, "long_texts: 'truncate', not 'split'"),
        ({"seed": 1}, "seed: 1, not 0"),
        ({"n_tokens": 50}, "n_tokens: 50, not None"),
    ],
)
def test_a_folder_with_other_activations_is_refused(tmp_path, changed: dict[str, Any], said: str):
    model = random_model()
    cl.cache_activations(model, ROWS, tmp_path, **OPTIONS)
    with pytest.raises(errors.PathTakenError, match=said):
        cl.cache_activations(model, ROWS, tmp_path, **{**OPTIONS, **changed})


def test_a_folder_of_another_model_is_refused(tmp_path):
    cl.cache_activations(random_model(), ROWS, tmp_path, **OPTIONS)
    with pytest.raises(errors.PathTakenError, match="holds other activations: weights"):
        cl.cache_activations(random_model(seed=1), ROWS, tmp_path, **OPTIONS)


def test_impossible_options_are_refused(tmp_path):
    model = random_model()
    unchecked = inspect.unwrap(cl.cache_activations)  # types are checked in tests only
    with pytest.raises(errors.ConfigError, match="dtype"):
        unchecked(model, ROWS, tmp_path, points=[1], dtype="int8")
    with pytest.raises(errors.ConfigError, match="shard_bytes"):
        cl.cache_activations(model, ROWS, tmp_path, points=[1], shard_bytes=0)
    with pytest.raises(errors.ConfigError, match="n_tokens"):
        cl.cache_activations(model, ROWS, tmp_path, points=[1], n_tokens=0)
    with pytest.raises(errors.ConfigError, match="no hook point"):
        cl.cache_activations(model, ROWS, tmp_path, points=[])
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_told_before_the_model_runs(tmp_path, monkeypatch):
    from clvq_lens import writing

    model = random_model()
    usage = type("Usage", (), {"total": 10**9, "free": 1_000})
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(cache, "read", None)
    with pytest.raises(errors.PathError, match="are needed"):
        cl.cache_activations(model, ROWS, tmp_path, **OPTIONS)


# ---- what is read again -------------------------------------------------------------------------


def damaged(folder: Path, offset: int) -> None:
    path = folder / "shard-000001.safetensors"
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_is_found_where_the_shard_is_used_first(tmp_path):
    cl.cache_activations(random_model(), ROWS, tmp_path, **OPTIONS)
    damaged(tmp_path, -5)
    with pytest.raises(errors.FileFormatError, match=r"000001\.safetensors is damaged"):
        list(cl.ActivationStore(tmp_path))


def test_a_shard_that_is_cut_off_or_missing_is_told(tmp_path):
    cl.cache_activations(random_model(), ROWS, tmp_path, **OPTIONS)
    path = tmp_path / "shard-000001.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(errors.FileFormatError, match="it is cut off"):
        list(cl.ActivationStore(tmp_path))
    path.unlink()
    with pytest.raises(errors.FileFormatError, match="is missing"):
        list(cl.ActivationStore(tmp_path))


def edited(folder: Path, **changes: Any) -> None:
    path = folder / INDEX
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))


def test_an_entry_that_was_renamed_or_damaged_is_refused(tmp_path):
    """No entry names a file, so none can name one outside of its folder."""
    cl.cache_activations(random_model(), ROWS, tmp_path, **OPTIONS)
    entry = tmp_path / "shard-000001.json"
    content = json.loads(entry.read_text())
    for changes, said in (
        ({"number": 7}, "is the entry of shard 7: it was renamed"),
        ({"file": "../secret"}, "does not have the fields"),
        ({"n_tokens": "many"}, "n_tokens is 'many', expected int"),
    ):
        entry.write_text(json.dumps({**content, **changes}))
        with pytest.raises(errors.FileFormatError, match=said):
            cl.ActivationStore(tmp_path)
    entry.write_text("{")
    with pytest.raises(errors.FileFormatError, match=r"000001\.json is damaged"):
        cl.ActivationStore(tmp_path)


def test_a_shard_that_is_missing_in_the_middle_is_read_again(tmp_path):
    model = random_model()
    whole = cl.cache_activations(model, ROWS, tmp_path / "whole", **OPTIONS)
    other = cl.cache_activations(model, ROWS, tmp_path / "gap", **OPTIONS)
    for suffix in ("json", "safetensors"):
        (tmp_path / "gap" / f"shard-000002.{suffix}").unlink()
    assert not cl.ActivationStore(tmp_path / "gap").index.complete
    other = cl.cache_activations(model, ROWS, tmp_path / "gap", **OPTIONS)
    assert other.index == whole.index


def test_an_index_of_another_kind_or_a_newer_one_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No index.json in"):
        cl.ActivationStore(tmp_path)
    cl.cache_activations(random_model(), ROWS, tmp_path, **OPTIONS)
    for version in (None, "one"):
        edited(tmp_path, format_version=version)
        with pytest.raises(errors.FileFormatError, match=r"names no format_version. Delete"):
            cl.ActivationStore(tmp_path)
    edited(tmp_path, format_version=2)
    with pytest.raises(errors.NewerFormatError, match="Update clvq_lens"):
        cl.ActivationStore(tmp_path)
    edited(tmp_path, format="something else")
    with pytest.raises(errors.FileFormatError, match="was not written by cache_activations"):
        cl.ActivationStore(tmp_path)
    (tmp_path / INDEX).write_text("{")
    with pytest.raises(errors.FileFormatError, match="is no JSON"):
        cl.ActivationStore(tmp_path)


def test_an_index_whose_sizes_are_not_those_of_the_shards_is_refused(tmp_path):
    cl.cache_activations(random_model(), ROWS, tmp_path, **OPTIONS)
    content = json.loads((tmp_path / INDEX).read_text())
    content["contents"]["points"][POINTS[0]] += 1
    edited(tmp_path, contents=content["contents"])
    said = f"does not hold what the index says: point {POINTS[0]}"
    with pytest.raises(errors.FileFormatError, match=said):
        list(cl.ActivationStore(tmp_path))


def test_a_model_of_double_precision_is_stored_in_single(tmp_path):
    model = random_model(dtype=torch.float64)
    store = cl.cache_activations(model, ROWS, tmp_path, **OPTIONS)
    assert store.index.contents.dtype == "float32"
    for point in POINTS:
        stored = activations_of(store, point)
        for number, row in enumerate(ROWS):
            expected = model.run_with_cache(row)[1][point][0]
            torch.testing.assert_close(stored[number].double(), expected, rtol=1e-6, atol=1e-6)
