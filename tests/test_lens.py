"""The lens names the verbs; each is tested in the room that does the work."""

import numpy as np
import pytest
import torch

import clvq_lens as cl
from clvq_lens.errors import NotFittedError


def test_the_map_of_the_codebook_has_every_code_where_it_is(fitted):
    figure = fitted.plot_codebook({0: "first"})
    used = figure.data[0]
    usage = sorted(fitted.quantizer.usage.tolist(), reverse=True)
    assert used.marker.size.tolist() == [tokens for tokens in usage if tokens]
    assert "0 first" in used.text
    assert "principal component 1" in figure.layout.xaxis.title.text


def test_a_map_of_an_unfitted_codebook_is_refused(model):
    with pytest.raises(NotFittedError, match=r"lens\.fit"):
        model.add_clvq(1, 2, n_codes=12).plot_codebook()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_quantizer_is_in_float32_whatever_the_default_dtype_of_torch(model, dtype):
    data = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(2))
    torch.set_default_dtype(dtype)
    try:
        lens = model.add_clvq(1, 2, n_codes=12, top_k=3)
        lens.fit(data, n_tokens=3_000, batch_tokens=256, progress=False)
        table = lens.concepts(data, progress=False)
        found = cl.attribution(lens, data[:1], cl.kl(), n_steps=2, n_true=2, progress=False)
    finally:
        torch.set_default_dtype(torch.float32)
    state = lens.quantizer.state_dict().values()
    assert {value.dtype for value in state} == {torch.float32, torch.long}
    assert sum(concept.usage for concept in table) == data.numel()
    assert np.isfinite(found.effects).all()
