"""A predictive encoder: trained first, stopped in time, and its codes live at the target."""

from typing import Any

import pytest
import torch

import clvq_lens as cl
from clvq_lens.training.prediction import EncoderTraining
from tests.conftest import random_model

DATA = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(2))
MLP, TARGET = "blocks.1.mlp.hook_post", "blocks.2.hook_resid_post"  # of width 32 and 16


def fitted(source: int | str = 1, model: Any = None, **options: Any) -> cl.Lens:
    model = model or random_model()
    options = {"n_codes": 12, "top_k": 3, "decoder": "mlp", **options}
    lens = model.add_clvq(source, 2, encoder="predictive", **options)
    lens.fit(DATA, n_tokens=3_000, batch_tokens=256, n_evaluations=4, progress=False)
    return lens


def test_the_encoder_output_is_near_the_target_and_not_the_source():
    lens = fitted()
    _, cache = lens.model.run_with_cache(DATA[:4])
    encoded = cache["clvq.1-2.hook_encoded"]
    source, target = cache[lens.source], cache[lens.target]
    assert (encoded - target).square().sum() < 0.5 * (source - target).square().sum()


def test_training_predicts_better_than_the_linear_map_it_starts_from():
    model, texts = cl.toy.load(n_texts=200)
    errors = {}
    for n_layers in (0, 2):
        options = {"encoder": "predictive", "encoder_layers": n_layers, "decoder": "table"}
        lens = model.add_clvq(1, 3, n_codes=32, **options)
        lens.fit(texts[:180], n_tokens=60_000, n_evaluations=2, progress=False)
        errors[n_layers] = 0.0
        for text in texts[180:]:
            _, cache = model.run_with_cache(model.to_tokens(text))
            encoded, target = cache["clvq.1-3.hook_encoded"], cache[lens.target]
            errors[n_layers] += float((encoded - target)[0, 1:].square().sum())
        lens.remove()
    assert errors[2] < 0.8 * errors[0]


@pytest.mark.parametrize("decoder", ["transformer", "mlp"])
def test_it_learns_from_single_tokens_whatever_the_decoder_reads(decoder, monkeypatch):
    learn_from, shapes = EncoderTraining._learn_from, set()

    def watched(self: EncoderTraining, batch: Any) -> None:
        shapes.add(batch.tokens.shape[1])
        learn_from(self, batch)

    monkeypatch.setattr(EncoderTraining, "_learn_from", watched)
    fitted(decoder=decoder)
    assert shapes == {1}


def test_an_interrupted_encoder_is_kept_with_codes_of_what_it_predicts(monkeypatch):
    learn_from, steps = EncoderTraining._learn_from, []

    def interrupted(*args: Any) -> None:
        if len(steps) == 5:
            raise KeyboardInterrupt
        steps.append(1)
        learn_from(*args)

    monkeypatch.setattr(EncoderTraining, "_learn_from", interrupted)
    lens = random_model().add_clvq(1, 2, n_codes=12, decoder="table")
    history = lens.fit(DATA, n_tokens=3_000, batch_tokens=256, n_evaluations=12, progress=False)
    assert len(steps) == 5
    assert (history.stop, history.records) == ("interrupted", [])
    assert float(lens.quantizer.encoder.out.weight.abs().max()) > 0  # not only the linear map
    assert lens.evaluate(DATA, progress=False).fvu < 0.9


def test_codes_are_those_of_encoder_outputs_and_vectors_live_at_the_target():
    lens = fitted(MLP)
    quantizer = lens.quantizer
    assert quantizer.codebook.vectors.shape == (12, 16)
    assert quantizer.source_vectors.shape == (12, 32)
    _, cache = lens.model.run_with_cache(DATA)
    encoded, codes = (cache[f"clvq.{lens.name}.hook_{what}"] for what in ("encoded", "codes"))
    assert encoded.shape == (*DATA.shape, 16)
    nearest = torch.cdist(encoded.flatten(0, 1), quantizer.codebook.vectors).argmin(1)
    assert torch.equal(codes.flatten(), nearest)


def test_the_mean_source_of_a_code_is_that_of_its_training_tokens():
    lens = fitted(MLP)
    model = lens.model
    lens.fit(DATA, n_tokens=3_000, batch_tokens=256, held_out_fraction=0.0, progress=False)
    _, cache = model.run_with_cache(DATA)
    codes = cache[f"clvq.{lens.name}.hook_codes"]
    code = int(lens.quantizer.usage.argmax())
    expected = cache[lens.source][codes == code].mean(0)
    torch.testing.assert_close(lens.quantizer.source_vectors[code], expected, atol=1e-4, rtol=1e-4)


def test_the_encoder_is_frozen_while_codes_and_decoder_learn(monkeypatch):
    after_prediction = {}
    original = EncoderTraining.run

    def run(self: EncoderTraining, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        after_prediction.update({n: t.clone() for n, t in self._encoder.state_dict().items()})

    monkeypatch.setattr(EncoderTraining, "run", run)
    lens = fitted()
    found = lens.quantizer.encoder.state_dict()
    assert after_prediction
    assert all(torch.equal(found[name], tensor) for name, tensor in after_prediction.items())


def test_an_encoder_that_overfits_stops_and_keeps_its_best_weights():
    """Noise cannot be predicted: the mean is best, and training makes held-out error worse."""
    model = random_model(d_vocab=400)
    data = torch.randint(0, 400, (24, 16), generator=torch.Generator().manual_seed(3))
    lens = model.add_clvq(0, 3, n_codes=4, top_k=1, encoder="predictive", decoder="table")
    options = {"batch_tokens": 64, "held_out_fraction": 0.4, "progress": False}
    lens.fit(data, n_tokens=12_000, **options)
    enough = evaluation_of_encoder(lens, data)
    lens.fit(data, n_tokens=400, **options)
    assert enough <= 1.1 * evaluation_of_encoder(lens, data)


def evaluation_of_encoder(lens: cl.Lens, data: torch.Tensor) -> float:
    from clvq_lens.data.documents import open_documents
    from clvq_lens.data.split import Split

    held_out = torch.stack([d.content for d in Split(open_documents(data), 0.4).held_out()])
    _, cache = lens.model.run_with_cache(held_out)
    error = cache[f"clvq.{lens.name}.hook_encoded"] - cache[lens.target]
    return float(error.square().sum())


def test_the_same_seed_gives_the_same_bits_and_a_file_keeps_them(tmp_path):
    one, other = fitted(), fitted()
    for name, tensor in one.quantizer.state_dict().items():
        assert torch.equal(tensor, other.quantizer.state_dict()[name]), name
    loaded = cl.load(one.save(tmp_path / "lens"))
    for name, tensor in one.quantizer.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    assert loaded.config.encoder == "predictive"


@pytest.mark.parametrize("decoder", ["transformer", "mlp", "table"])
def test_every_verb_works_where_source_and_target_differ_in_width(decoder, tmp_path):
    lens = fitted(MLP, decoder=decoder)
    model, quiet = lens.model, {"progress": False}
    clean = model(DATA[:2])
    codes = lens.encode(DATA[:2]).codes
    with lens.edit(cl.Ablate(int(codes[0, 3]))):
        assert not torch.equal(model(DATA[:2]), clean)
    for place in ("source", "target"):
        with lens.project_out(int(codes[0, 3]), place=place):
            assert not torch.equal(model(DATA[:2]), clean)
    with lens.splice():
        assert not torch.equal(model(DATA[:2]), clean)
    assert torch.equal(model(DATA[:2]), clean)
    assert len(lens.concepts(DATA, **quiet)) == 12
    assert lens.evaluate(DATA, **quiet).fvu < 1
    assert lens.baseline("k-means", DATA, **quiet).quantizer.codebook.vectors.shape == (12, 32)


def test_a_residual_encoder_is_saved_as_before_there_was_another():
    names = random_model().add_clvq(1, 2, n_codes=12, encoder="residual").quantizer.state_dict()
    assert "mean_source" not in names
    assert {"encoder.mix_logit", "encoder.linear.weight"} <= set(names)
