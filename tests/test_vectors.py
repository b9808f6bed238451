"""Vectors from elsewhere: fitted, evaluated and compared without a model."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import clvq_lens as cl
from clvq_lens import errors
from clvq_lens.data.document import Document
from tests.conftest import random_model

ROWS = [
    torch.randint(0, 40, (5 + number % 12,), generator=torch.Generator().manual_seed(number))
    for number in range(120)
]
TOKENS = torch.cat(ROWS)
DOCUMENTS = torch.arange(len(ROWS)).repeat_interleave(torch.tensor(list(map(len, ROWS))))
FIT: dict[str, Any] = {"n_tokens": 3_000, "batch_tokens": 256, "progress": False, "seed": 3}
OPTIONS: dict[str, Any] = {"n_codes": 12, "decoder_layers": 1}


@pytest.fixture(scope="module")
def captured() -> tuple[Tensor, Tensor]:
    """What a model has at two layers, document after document."""
    model = random_model()
    ends: dict[str, list[Tensor]] = {"source": [], "target": []}
    for row in ROWS:
        _, cache = model.run_with_cache(row.unsqueeze(0))
        ends["source"].append(cache["blocks.1.hook_resid_post"][0])
        ends["target"].append(cache["blocks.2.hook_resid_post"][0])
    return torch.cat(ends["source"]).detach(), torch.cat(ends["target"]).detach()


@pytest.fixture(scope="module")
def data(captured) -> cl.VectorData:
    source, target = captured
    return cl.activations(source=source, target=target, tokens=TOKENS, documents=DOCUMENTS)


@pytest.fixture(scope="module")
def lens(data) -> cl.Lens:
    lens = data.add_clvq(**OPTIONS)
    lens.fit(data, **FIT)
    return lens


# ---- the same as with a model -------------------------------------------------------------------


@pytest.mark.parametrize("decoder", ["table", "transformer"])
def test_a_fit_on_vectors_is_that_on_a_store_of_them(data, tmp_path, decoder: str):
    model = random_model()
    store = cl.cache_activations(model, ROWS, tmp_path, points=[1, 2], progress=False)
    # Rows that share a batch are computed in other bits than alone, so the vectors are the store's.
    points = {name: torch.cat([s.activations(name) for s in store.shards]) for name in store.points}
    data = cl.activations(*points.values(), tokens=TOKENS, documents=DOCUMENTS)
    with_model = model.add_clvq(1, 2, **OPTIONS, decoder=decoder)
    without = data.add_clvq(**OPTIONS, decoder=decoder)
    with_model.fit(store, **FIT)
    without.fit(data, **FIT)
    theirs = with_model.quantizer.state_dict()
    for name, tensor in without.quantizer.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name
    evaluation = without.evaluate(data, progress=False)
    expected = with_model.evaluate(store, progress=False)
    assert (evaluation.fvu, evaluation.fvu.low) == (expected.fvu, expected.fvu.low)
    assert evaluation.fvu_random_codes == expected.fvu_random_codes
    # What is known of the model's predictions is absent, and not zero.
    assert expected.kl is not None
    for name in ("ce_clean", "ce_loss_recovered", "kl", "kl_unquantized", "kl_mean_ablated"):
        assert getattr(evaluation, name) is None, name
    assert "There is no model to run" in str(evaluation.left_out)


def test_concepts_have_tokens_and_contexts_and_promote_nothing(lens, data):
    table = lens.concepts(data, progress=False)
    assert table.n_tokens == len(TOKENS)
    code = max(table, key=lambda concept: concept.usage)
    assert sum(int(t.text) in range(40) for t in code.tokens) == len(code.tokens) > 0
    example = code.typical[0]
    assert int(ROWS[example.document][example.position]) == int(example.token)
    assert code.at_target is code.direct is None


def test_codes_of_vectors_can_be_read(lens, data):
    encoding = lens.encode(data, progress=False)
    usage = torch.bincount(encoding.codes[encoding.mask], minlength=12)
    assert int(usage.sum()) == len(TOKENS)


def test_baselines_and_comparisons_take_vectors(lens, data, tmp_path):
    comparison = cl.compare(
        [lens, "k-means", "sparse autoencoder"],
        data,
        train=data,
        config=cl.FitConfig(n_tokens=2_000, batch_tokens=256),
        decoders=["table"],
        checkpoint=tmp_path,
        progress=False,
    )
    frame = comparison.frame().set_index("method")
    assert frame["fvu"].notna().all()
    assert frame.loc["k-means of the target", "fvu"] < frame.loc["random codes", "fvu"]
    assert not {"kl", "ce_loss_recovered"} & set(frame.columns)
    assert set(cl.clvqs(data.model)) == {"source-target"}
    with pytest.raises(errors.HookNotFoundError):
        lens.baseline("token identity", data, progress=False)


def test_a_fit_on_vectors_has_checkpoints(data, captured, tmp_path):
    undisturbed, lens = data.add_clvq(**OPTIONS, name="one"), data.add_clvq(**OPTIONS, name="other")
    undisturbed.fit(data, **FIT)
    lens.fit(data, checkpoint=tmp_path, checkpoint_every=1e-9, **FIT)
    lens.fit(data, checkpoint=tmp_path, resume=True, **FIT)
    assert torch.equal(lens.quantizer.codebook.vectors, undisturbed.quantizer.codebook.vectors)
    source, target = captured[0].clone(), captured[1]
    source[-1, -1] += 1
    other = cl.activations(source, target, tokens=TOKENS, documents=DOCUMENTS)
    with pytest.raises(errors.CheckpointError, match="of another fit: data: "):
        lens.fit(other, checkpoint=tmp_path, resume=True, **FIT)
    undisturbed.remove()
    lens.remove()


def test_saved_and_loaded_on_other_vectors(lens, data, captured, tmp_path):
    lens.save(tmp_path)
    source, target = captured
    half = len(source) // 2
    other = cl.activations(source[:half], target[:half], documents=DOCUMENTS[:half])
    loaded = other.add_clvq(quantizer=cl.load(tmp_path))
    assert loaded.evaluate(other, progress=False).fvu == lens.evaluate(other, progress=False).fvu
    assert loaded.name == "source-target"


# ---- how vectors are read -----------------------------------------------------------------------


def test_a_mapped_file_is_read_in_parts_and_never_copied(captured, tmp_path, monkeypatch):
    import clvq_lens.vectors as module

    monkeypatch.setattr(module, "_SHARD_BYTES", 5_000)
    arrays = []
    for number, vectors in enumerate(captured):
        path = tmp_path / f"{number}.npy"
        np.save(path, vectors.numpy().astype(np.float16))
        arrays.append(np.load(path, mmap_mode="r"))
    data = cl.activations(*arrays, documents=DOCUMENTS.numpy())
    assert len(data.shards) > 10
    for point, array in zip(("source", "target"), arrays, strict=True):
        first = data.shards[0].activations(point)
        assert first.data_ptr() == array.ctypes.data  # the file itself
        assert torch.equal(
            torch.cat([shard.activations(point) for shard in data.shards]),
            torch.from_numpy(np.array(array)),
        )
    assert sum(len(shard.documents) for shard in data.shards) == len(ROWS)
    numbers = torch.cat([shard.documents for shard in data.shards])
    assert torch.equal(numbers, torch.arange(len(ROWS)))
    lens = data.add_clvq(**OPTIONS)
    lens.fit(data, **FIT)
    assert lens.evaluate(data, progress=False).fvu < 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_it_is(captured, dtype: torch.dtype):
    source, target = (vectors.to(dtype) for vectors in captured)
    data = cl.activations(source, target, documents=DOCUMENTS)
    same = cl.activations(source.float(), target.float(), documents=DOCUMENTS)
    vectors: list[Tensor] = []
    for each in (data, same):
        lens = each.add_clvq(**OPTIONS, decoder="table")
        lens.fit(each, **FIT)
        vectors.append(lens.quantizer.codebook.vectors)
    # The documents are told apart by their bytes, so that other ones are held out.
    assert vectors[0].shape == vectors[1].shape
    assert lens.evaluate(data, progress=False).fvu == lens.evaluate(same, progress=False).fvu


def test_documents_with_the_same_tokens_are_on_one_side(data, captured):
    digests = torch.cat([shard.digests for shard in data.shards]).numpy().view(np.uint64)
    assert digests.tolist() == [Document(row, 0).digest() for row in ROWS]
    without_tokens = cl.activations(*captured, documents=DOCUMENTS).shards[0].digests
    assert len(without_tokens.unique()) == len(ROWS)


def test_without_documents_tokens_in_a_row_count_as_one(captured):
    data = cl.activations(*captured)
    lens = data.add_clvq(n_codes=12, decoder="mlp")
    history = lens.fit(data, **FIT)
    assert data.n_documents == -(-len(TOKENS) // 64)
    assert int(sum(shard.lengths.sum() for shard in data.shards)) == len(TOKENS)
    assert history.n_held_out_documents > 0
    assert lens.evaluate(data, progress=False).n_documents == data.n_documents
    with pytest.raises(errors.ConfigError, match=r"nobody knows where they begin.*documents="):
        data.add_clvq(n_codes=12, name="sequences").fit(data, **FIT)


def test_an_encoder_sees_all_tokens(captured):
    data = cl.activations(*captured, documents=DOCUMENTS, causal=False)
    assert not data.add_clvq(**OPTIONS).quantizer.causal
    assert cl.activations(*captured).add_clvq(**OPTIONS).quantizer.causal


def test_it_shows_itself(data, captured):
    assert repr(data) == f"VectorData({len(TOKENS):,} tokens in 120 documents)"
    assert "float32" in data._repr_html_()
    assert "blocks of tokens" in repr(cl.activations(*captured))


# ---- what is refused ----------------------------------------------------------------------------


def test_what_needs_a_model_says_so(lens, data):
    with pytest.raises(errors.ModelNeededError, match=r"vectors and no model.*model\.add_clvq"):
        lens.encode(TOKENS, progress=False)
    with pytest.raises(errors.ModelNeededError, match="no model"):
        data.model(TOKENS)
    with pytest.raises(errors.ModelNeededError, match="kl_weight compares what the model predicts"):
        data.add_clvq(**OPTIONS, name="kl").fit(data, kl_weight=1.0, **FIT)
    with pytest.raises(errors.ModelNeededError, match="no model"):
        cl.ablation_sweep(lens, TOKENS[:8], cl.kl(), progress=False)
    with pytest.raises(errors.DataError, match="no tokenizer"):
        lens.encode(["a text"], progress=False)


def test_lenses_of_models_and_of_vectors_are_told_apart(lens, data, fitted, tmp_path):
    with pytest.raises(errors.HostMismatchError, match="of no model that this lens knows"):
        fitted.evaluate(data, progress=False)
    store = cl.cache_activations(
        fitted.model, ROWS, tmp_path / "store", points=[1, 2], progress=False
    )
    with pytest.raises(errors.HostMismatchError, match="activations of another model"):
        lens.fit(store, **FIT)
    lens.save(tmp_path / "vectors")
    with pytest.raises(errors.HostMismatchError, match="fitted on vectors without a model"):
        random_model().add_clvq(quantizer=cl.load(tmp_path / "vectors"))
    fitted.save(tmp_path / "model")
    with pytest.raises(errors.HostMismatchError, match=r"fitted on a model \(HookedTransformer\)"):
        data.add_clvq(quantizer=cl.load(tmp_path / "model"), name="other")


def test_other_widths_are_refused(lens, captured, tmp_path):
    source, target = captured
    narrow = cl.activations(source[:, :8], target, documents=DOCUMENTS)
    with pytest.raises(errors.HostMismatchError, match=r"widths 8 and 16.*made for 16 and 16"):
        lens.evaluate(narrow, progress=False)
    lens.save(tmp_path)
    with pytest.raises(errors.HostMismatchError, match="widths 8 and 16"):
        narrow.add_clvq(quantizer=cl.load(tmp_path))
    assert not cl.clvqs(narrow.model)


def test_vectors_that_are_not_finite_are_refused(captured):
    source = captured[0].clone()
    source[5] = torch.nan
    data = cl.activations(source, captured[1], documents=DOCUMENTS)
    with pytest.raises(errors.NonFiniteError, match=r"1 of .* vectors of the source hold NaN"):
        data.add_clvq(**OPTIONS).fit(data, **FIT)


X = torch.zeros(6, 4)


@pytest.mark.usefixtures("as_for_a_user")
@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"target": X[:5]}, errors.ShapeError, "6 vectors at the source and 5 at the target"),
        ({"source": X[0]}, errors.ShapeError, r"source has shape \[4\]"),
        ({"source": X[:0]}, errors.EmptyCorpusError, "source holds no vector"),
        ({"source": X.double()}, errors.DataError, "source is torch.float64"),
        ({"target": X.numpy().astype(int)}, errors.DataError, "target is an array of int64"),
        ({"target": [[1.0]]}, errors.DataError, "target is list"),
        ({"target": X.numpy()[::-1]}, errors.DataError, "cannot be read without a copy"),
        ({"target": X.numpy().astype(">f4")}, errors.DataError, "an array of >f4"),
        ({"tokens": [0] * 5}, errors.DataError, r"tokens are int64 of shape \[5\]"),
        ({"tokens": [0.5] * 6}, errors.DataError, "tokens are float64"),
        ({"tokens": [-1] * 6}, errors.DataError, "tokens reach from -1 to -1"),
        ({"documents": [1, 1, 2, 2, 1, 3]}, errors.DataError, "Document 1 is in two places"),
        ({"causal": 1}, errors.ConfigError, "causal is 1"),
    ],
)
def test_what_are_no_vectors_is_refused(
    arguments: dict[str, Any], error: type[Exception], said: str
):
    with pytest.raises(error, match=said):
        cl.activations(**{"source": X, "target": X, **arguments})
