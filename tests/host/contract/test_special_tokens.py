"""Edits change the target at real tokens and at positions that they name, and nowhere else."""

import pytest
import torch

import clvq_lens as cl
from tests.host.contract.checks import CODES, next_code

EVERYWHERE = {
    "force": lambda lens: lens.edit(cl.Force(3)),
    "mean": lambda lens: lens.edit(cl.Ablate(list(range(12)), to="mean")),
    "steer": lambda lens: lens.edit(cl.Steer(int(lens.quantizer.usage.argmax()), 3.0)),
    "function": lambda lens: lens.edit(lambda codes, tokens: (codes + 1) % 12),
    "splice": lambda lens: lens.splice(),
    "force-without-error": lambda lens: lens.edit(cl.Force(3), error_term=False),
}


@pytest.fixture
def with_special(kind, lens, tokens):
    """The tokens with special ones at the beginning and inside, and a mask of these."""
    special, padding = lens.host.vocabulary.special, lens.host.vocabulary.padding
    if not len(special):
        pytest.skip(f"{kind} has no tokenizer, so no special tokens")
    tokens = tokens.clone()
    # Leading padding would be taken off, unless it is the start token, too.
    others = special[special != padding]
    tokens[:, 0] = tokens[1, 6] = others[0] if len(others) else special[0]
    return tokens, torch.isin(tokens, special)


def target_of(kind, model, tokens):
    _, cache = model.run_with_cache(tokens, names_filter=kind.after(2))
    return cache[kind.after(2)]


@pytest.mark.parametrize("name", EVERYWHERE)
def test_special_tokens_keep_their_target_under_an_edit_of_all_codes(
    kind, model, lens, with_special, name
):
    tokens, special = with_special
    plain = target_of(kind, model, tokens)
    with EVERYWHERE[name](lens):
        changed = target_of(kind, model, tokens)
    assert torch.equal(changed[special], plain[special])
    assert (changed != plain).any(-1)[~special].float().mean() > 0.5


@pytest.mark.parametrize("error_term", [True, False])
def test_a_position_that_an_edit_names_changes_whatever_the_token_is(
    kind, model, lens, with_special, error_term
):
    tokens, special = with_special
    codes = model.run_with_cache(tokens, names_filter=CODES)[1][CODES]
    plain = target_of(kind, model, tokens)
    other = int((codes[1, 0] + 1) % 12)
    with lens.edit(cl.Force(other, at=0), error_term=error_term):
        changed = target_of(kind, model, tokens)
    assert (changed[:, 0] != plain[:, 0]).any()
    elsewhere = special.clone()
    elsewhere[:, 0] = False
    assert torch.equal(changed[elsewhere], plain[elsewhere])


def test_a_hook_changes_the_target_where_it_changes_codes(kind, model, lens, with_special):
    tokens, _ = with_special
    plain = target_of(kind, model, tokens)

    def at_the_beginning(codes, hook):
        codes[:, 0] = (codes[:, 0] + 1) % 12

    def inside(codes, hook):
        codes[:, 3] = (codes[:, 3] + 1) % 12

    for hook, first_changes in ((at_the_beginning, True), (inside, False), (next_code, True)):
        with model.hooks(fwd_hooks=[(CODES, hook)]):
            changed = target_of(kind, model, tokens)
        assert bool((changed[:, 0] != plain[:, 0]).any()) == first_changes
        assert not torch.equal(changed, plain)


def test_sweeps_leave_special_tokens_alone_as_edits_do(kind, model, lens, with_special):
    from clvq_lens.data.tokens import one_batch
    from clvq_lens.interventions.counterfactuals import Counterfactuals

    tokens, _ = with_special
    tokens[:, 0] = 7  # one start token may also be the padding that is taken off
    runs = Counterfactuals(lens.attachment, one_batch(lens.host, tokens), until=kind.after(2))
    with torch.no_grad():
        ((rows, swept),) = runs.outcomes([runs.edited(cl.Force(3))])
    with lens.edit(cl.Force(3)):
        edited = target_of(kind, model, tokens)
    torch.testing.assert_close(swept, edited[rows])


def test_outliers_keep_their_target_as_special_tokens_do(kind, model, lens, tokens):
    plain = target_of(kind, model, tokens)
    norms = torch.linalg.vector_norm(plain, dim=-1)
    longest = norms == norms.max()
    lens.quantizer.max_target_norm.fill_(norms.max() - 1e-3)
    for name in ("force", "splice", "force-without-error"):
        with EVERYWHERE[name](lens):
            changed = target_of(kind, model, tokens)
        assert torch.equal(changed[longest], plain[longest])
        assert (changed != plain).any(-1)[~longest].float().mean() > 0.5
    position = int(longest.any(0).nonzero()[0])
    with lens.project_out(int(lens.quantizer.usage.argmax())):
        changed = target_of(kind, model, tokens)
    assert torch.equal(changed[longest], plain[longest])
    codes = model.run_with_cache(tokens, names_filter=CODES)[1][CODES]
    with lens.edit(cl.Force(int((codes[longest][0] + 1) % 12), at=position)):
        assert not torch.equal(target_of(kind, model, tokens)[longest], plain[longest])
