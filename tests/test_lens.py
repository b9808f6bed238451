"""The lens names the verbs; each is tested in the room that does the work."""

import pytest

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
