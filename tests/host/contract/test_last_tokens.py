"""The last token of a text alone, with the keys and values of the others, on every kind of host."""

import pytest
import torch

import clvq_lens as cl
from clvq_lens.host.host import Host
from clvq_lens.host.last_tokens import KeptPass, is_untouched
from tests.hosts import D_MODEL, words


@pytest.mark.parametrize("point", ["after", "before", "inside"])
def test_a_last_token_with_a_kept_past_says_what_the_whole_text_says(kind, model, lens, point):
    """A quantizer is attached, whose decoder would follow a generation with such a cache."""
    if not kind.causal:
        pytest.skip("every token of an encoder sees the last one")
    host = Host(model)
    name = host.resolve(
        {"after": 1, "before": "blocks.2.hook_resid_pre", "inside": "blocks.1.hook_mlp_out"}[point]
    )
    until = host.resolve(2)
    lengths = torch.tensor([4, 7, 1])
    tokens = words(3, 7)
    attended = torch.arange(7) < lengths.unsqueeze(1)
    kept = KeptPass(host, tokens, attended, [name, until, host.resolve(3)])
    assert kept.is_complete == kind.has_cache
    if not kept.is_complete:
        return
    assert is_untouched(host)
    vectors = torch.randn(5, D_MODEL, generator=torch.Generator().manual_seed(2))
    for row, length in enumerate(lengths.tolist()):
        values = kept.activations[name][row : row + 1, :length].repeat(5, 1, 1)
        values[:, -1] = vectors
        text = tokens[row : row + 1, :length].expand(5, -1)
        whole = name, values, text, torch.ones_like(text, dtype=torch.bool)
        alone = name, values[:, -1:], text[:, -1:], torch.ones(5, 1, dtype=torch.bool)
        with torch.no_grad():
            expected = host.logits_with(*whole)[:, -1:]
            past = kept.before(row, length - 1, 5)
            torch.testing.assert_close(host.logits_with(*alone, past=past), expected)
            expected = host.activations_with(*whole, until=until)[:, -1:]
            past = kept.before(row, length - 1, 5)
            found = host.activations_with(*alone, until=until, past=past)
            torch.testing.assert_close(found, expected)


def test_a_model_is_touched_by_a_hook_and_by_an_open_block(model, lens):
    host = Host(model)
    with model.hooks(fwd_hooks=[(host.resolve(0), lambda value, hook: value)]):
        assert not is_untouched(host)
    with lens.edit(cl.Ablate(3)):
        assert not is_untouched(host)
    with lens.attachment.recording():
        assert not is_untouched(host)
    assert is_untouched(host)
