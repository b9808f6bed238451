import copy
import os
from pathlib import Path

import pytest
import torch

import clvq_lens as cl
from benchmarks.kept_activations import kept_activations, read_ahead
from clvq_lens.data.documents import open_documents
from clvq_lens.data.tokens import token_batches
from clvq_lens.host.host import Host
from tests.conftest import random_model
from tests.hosts import KINDS, Kind, words

LENGTHS = (7, 3, 9, 3, 1)


def batch_of(sequences: list[torch.Tensor], n_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences padded on the right with a word, which the model must not see."""
    tokens = torch.full((len(sequences), n_positions), 6)
    attended = torch.zeros(len(sequences), n_positions, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = sequence
        attended[row, : len(sequence)] = True
    return tokens, attended


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_is_kept_is_what_the_model_says_in_any_batch(kind: Kind, tmp_path: Path):
    model = kind.model()
    host, names = Host(model), [kind.after(1), kind.after(2)]
    sequences = [words(n, seed=n) for n in LENGTHS]
    sequences[3] = sequences[0][:3]  # another sequence, and the beginning of one
    with kept_activations(model, tmp_path) as kept:
        host.activations(*batch_of(sequences, 9), names)
        assert kept.n_run == len(LENGTHS)
    others = [sequences[row] for row in (4, 2, 3, 2)]
    batch = batch_of([*others, words(5)], 12)
    expected = host.activations(*batch, names[:1])
    with kept_activations(model, tmp_path) as kept:
        actual = host.activations(*batch, names[:1])
        assert kept.n_run == 1  # the one that is new
    assert actual.keys() == expected.keys()
    attended = batch[1]
    torch.testing.assert_close(actual[names[0]][attended], expected[names[0]][attended])
    assert (actual[names[0]][~attended] == 0).all()


def test_activations_of_a_trained_model_are_kept(stories_model, stories, tmp_path: Path):
    texts, host = stories[:24], Host(stories_model)
    names = [host.resolve(1), host.resolve(3)]
    with kept_activations(stories_model, tmp_path) as kept:
        read_ahead(stories_model, texts, (1, 3))
        assert kept.n_run >= len(texts)
        n_run = kept.n_run
        # Alone, where they were read among others.
        for batch in token_batches(host, open_documents(texts[5:8]), long_texts="split"):
            actual = host.activations(*batch.on(host.device), names)
            assert kept.n_run == n_run
            expected = _bare(host, batch, names)
            for name in names:
                torch.testing.assert_close(
                    actual[name][batch.attended],
                    expected[name][batch.attended],
                    rtol=1e-4,
                    atol=1e-4,
                )


def _bare(host: Host, batch, names: list[str]) -> dict[str, torch.Tensor]:
    """What passes hook points of the model itself, whatever is kept."""
    read: dict[str, torch.Tensor] = {}
    with host.reading(names, read):
        host.run(*batch.on(host.device))
    return read


def test_a_fit_that_reads_what_is_kept_ends_like_one_that_runs_the_model(tmp_path: Path):
    data = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(2))
    plain = _codebook(data)
    with kept_activations(model := random_model(), tmp_path) as kept:
        first = _codebook(data, model)
        assert kept.n_run == len(data)
    with kept_activations(model := random_model(), tmp_path) as kept:
        second = _codebook(data, model)
        assert kept.n_run == 0
    torch.testing.assert_close(first, plain)
    assert torch.equal(first, second)


def _codebook(data: torch.Tensor, model=None) -> torch.Tensor:
    lens = (model or random_model()).add_clvq(1, 2, n_codes=12, top_k=3)
    lens.fit(data, n_tokens=3_000, batch_tokens=256, progress=False)
    return lens.quantizer.codebook.vectors.clone()


def test_an_evaluation_has_its_clean_pass_from_what_is_kept(fitted, tmp_path: Path):
    data = [words(n, seed=seed) for seed, n in enumerate((9, 14, 5, 14))]
    expected = fitted.evaluate(data, progress=False)
    n_whole_passes = 0

    def count(*_: object) -> None:
        nonlocal n_whole_passes
        n_whole_passes += 1

    with kept_activations(fitted.host.model, tmp_path) as kept:
        first = fitted.evaluate(data, progress=False)
        assert kept.n_run == len(data)
        # Spliced and ablated passes begin at the target.
        handle = fitted.host.model.blocks[0].attn.register_forward_hook(count)
        again = fitted.evaluate(data, progress=False)
        handle.remove()
    assert n_whole_passes == 0
    for name in ("fvu", "ce_clean", "ce_spliced", "kl", "kl_mean_ablated", "ce_loss_recovered"):
        value = float(getattr(expected, name))
        assert float(getattr(first, name)) == pytest.approx(value, rel=1e-4), name
        assert getattr(again, name) == getattr(first, name), name


def test_what_was_finished_before_a_kill_is_kept(model, tmp_path: Path):
    host, names = Host(model), ["blocks.1.hook_resid_post"]
    n_passes = 0

    def kill_the_second(*_: object) -> None:
        nonlocal n_passes
        n_passes += 1
        if n_passes == 2:
            raise KeyboardInterrupt

    first, second = batch_of([words(4)], 4), batch_of([words(5)], 5)
    handle = host.embedding.register_forward_hook(kill_the_second)
    with kept_activations(model, tmp_path):
        host.activations(*first, names)
        with pytest.raises(KeyboardInterrupt):
            host.activations(*second, names)
    handle.remove()
    with kept_activations(model, tmp_path) as kept:
        host.activations(*first, names)
        assert kept.n_run == 0
        host.activations(*second, names)
        assert kept.n_run == 1


def test_a_kill_while_a_file_is_written_leaves_no_half_of_it(model, tmp_path: Path, monkeypatch):
    host, names = Host(model), ["blocks.1.hook_resid_post"]

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with kept_activations(model, tmp_path):
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", kill)
            with pytest.raises(KeyboardInterrupt):
                host.activations(*batch_of([words(4)], 4), names)
        assert list(tmp_path.glob("*.safetensors")) == []
    with kept_activations(model, tmp_path) as kept:
        host.activations(*batch_of([words(4)], 4), names)
        assert kept.n_run == 1


def test_what_another_process_reads_meanwhile_is_found(model, tmp_path: Path):
    host, names = Host(model), ["blocks.1.hook_resid_post"]
    batch = batch_of([words(4)], 4)
    with kept_activations(model, tmp_path) as kept:
        with kept_activations(model, tmp_path) as of_another:
            host.activations(*batch, names)
            assert of_another.n_run == 1
        host.activations(*batch, names)
        assert kept.n_run == 0


@pytest.mark.parametrize("how", ["edit", "recording", "hook of a user"])
def test_nothing_is_kept_or_given_while_the_model_may_be_changed(how, fitted, tmp_path: Path):
    host, names = fitted.host, [fitted.target]
    batch = batch_of([words(8)], 8)
    model = host.model
    with kept_activations(model, tmp_path) as kept:
        clean = host.activations(*batch, names)[fitted.target]
        assert kept.n_run == 1
        if how == "edit":
            codes = range(fitted.quantizer.config.n_codes - 1)
            with fitted.edit(*map(cl.Ablate, codes)):
                changed = host.activations(*batch, names)[fitted.target]
            assert not torch.allclose(changed, clean)
        elif how == "recording":
            with fitted.attachment.recording() as records:
                host.activations(*batch, names)
            assert len(records) == 1
        else:
            hooks = [(fitted.source, lambda activations, hook: activations + 1)]
            with model.hooks(fwd_hooks=hooks):
                changed = host.activations(*batch, names)[fitted.target]
            assert not torch.allclose(changed, clean)
        assert kept.n_run == 1
        assert torch.equal(host.activations(*batch, names)[fitted.target], clean)


def test_padding_on_the_left_is_refused(model, tmp_path: Path):
    tokens, attended = batch_of([words(3)], 5)
    with (
        kept_activations(model, tmp_path),
        pytest.raises(ValueError, match=r"Pad on the right, or read outside"),
    ):
        Host(model).activations(tokens.flip(1), attended.flip(1), ["blocks.1.hook_resid_post"])


def test_a_folder_of_another_model_is_refused(model, tmp_path: Path):
    with kept_activations(model, tmp_path):
        pass
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.blocks[3].mlp.W_in.mul_(1.01)
    with (
        pytest.raises(ValueError, match=r"another model .*Pass another folder"),
        kept_activations(other, tmp_path),
    ):
        pass


def test_other_models_run_as_ever(model, tmp_path: Path):
    with kept_activations(model, tmp_path) as kept:
        other = Host(random_model(seed=1))
        other.activations(*batch_of([words(3)], 3), ["blocks.1.hook_resid_post"])
        assert kept.n_run == 0
        assert list(tmp_path.glob("*.safetensors")) == []


def test_the_host_is_as_before_after_an_error(model, tmp_path: Path):
    before = Host.activations
    with pytest.raises(ZeroDivisionError), kept_activations(model, tmp_path):
        _ = 1 / 0
    assert Host.activations is before
