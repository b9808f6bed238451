import weakref
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from clvq_lens.config import CLVQConfig
from clvq_lens.data.activations import Activations, ActivationSource
from clvq_lens.data.document_order import DocumentOrder
from clvq_lens.data.reading import check_finite
from clvq_lens.data.sequence_columns import SequenceColumns
from clvq_lens.data.sequence_reader import ModelReader
from clvq_lens.data.stream import ShuffledStream
from clvq_lens.data.tokens import TokenBatch
from clvq_lens.errors import NonFiniteError, TextTooLongError
from clvq_lens.host.attachment import Attachment
from clvq_lens.host.host import Host
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from tests.conftest import attach, random_model

SOURCE, TARGET = "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"


def attached(model: HookedTransformer, target: str = TARGET) -> Attachment:
    host = Host(model)
    widths = host.width(SOURCE), host.width(target)
    quantizer = CrossLayerQuantizer(CLVQConfig(decoder="table"), *widths, causal=host.causal)
    return attach(model, quantizer, SOURCE, target)


def activation_source(model: HookedTransformer, target: str = TARGET) -> ActivationSource:
    return ActivationSource(attached(model, target), long_texts="error")


def ragged(n: int, seed: int = 0) -> list[Tensor]:
    """Rows of 1 to 20 tokens, each beginning with its own number, 0 to 39."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 21, (n,), generator=generator).tolist()
    rows = [torch.randint(0, 40, (length,), generator=generator) for length in lengths]
    for number, row in enumerate(rows):
        row[0] = number % 40
    return rows


# ---- ActivationSource ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", [TARGET, SOURCE, "blocks.3.hook_resid_post", "blocks.2.mlp.hook_post"]
)
def test_activations_are_those_in_the_cache_of_the_model(model, tokens, target: str):
    (batch,) = activation_source(model, target).batches(list(tokens))
    _, cache = model.run_with_cache(batch.tokens)
    assert torch.equal(batch.source, cache[SOURCE])
    assert torch.equal(batch.target, cache[target])
    assert batch.n_tokens == tokens.numel()


def test_activations_of_padded_rows_are_those_of_each_row_alone(model):
    rows = ragged(30)
    for batch in activation_source(model).batches(rows):
        for row in range(len(batch.tokens)):
            attended = batch.attended[row]
            _, cache = model.run_with_cache(batch.tokens[row][attended])
            torch.testing.assert_close(batch.source[row][attended], cache[SOURCE][0])
            torch.testing.assert_close(batch.target[row][attended], cache[TARGET][0])


def test_activations_of_a_half_precision_host_are_float32():
    model = random_model(dtype=torch.bfloat16)
    (batch,) = activation_source(model).batches(ragged(3))
    assert batch.source.dtype == batch.target.dtype == torch.float32


def test_the_forward_pass_stops_after_the_target_block(model, tokens):
    ran: list[int] = []
    for index, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    list(activation_source(model).batches(list(tokens)))
    assert ran == [0, 1, 2]


def test_a_target_after_the_last_block_runs_the_whole_model(model, tokens):
    (batch,) = activation_source(model, "ln_final.hook_normalized").batches(list(tokens))
    _, cache = model.run_with_cache(batch.tokens)
    assert torch.equal(batch.target, cache["ln_final.hook_normalized"])


def test_reading_activations_builds_no_graph_and_leaves_no_hook(model, tokens):
    source = activation_source(model)
    before = {name: len(point._forward_hooks) for name, point in model.hook_dict.items()}
    (batch,) = source.batches(list(tokens))
    assert not batch.source.requires_grad
    assert not batch.target.requires_grad
    assert {name: len(point._forward_hooks) for name, point in model.hook_dict.items()} == before


@pytest.mark.parametrize(("layer", "name"), [(1, SOURCE), (2, TARGET)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_refused_by_their_hook_point(
    model, tokens, layer: int, name: str, bad: float
):
    with torch.no_grad():
        model.blocks[layer].mlp.b_out[3] = bad
    with pytest.raises(NonFiniteError, match=f"48 of 48 activations at '{name}' hold NaN.*dtype"):
        list(activation_source(model).batches(list(tokens)))


def test_only_the_bad_rows_are_counted():
    values = torch.zeros(5, 3)
    values[1, 2] = torch.inf
    values[4] = torch.nan
    with pytest.raises(NonFiniteError, match="2 of 5 activations at 'here'"):
        check_finite(values.unsqueeze(0), torch.ones(1, 5, dtype=torch.bool), "here")
    tokens = torch.tensor([[True, False, True, True, False]])
    check_finite(values.unsqueeze(0), tokens, "here")  # whatever is on padding


def test_a_text_beyond_the_context_is_refused(model):
    with pytest.raises(TextTooLongError, match="Document 0 has 49 tokens"):
        list(activation_source(model).batches([torch.zeros(49, dtype=torch.long)]))


# ---- ShuffledStream ------------------------------------------------------------------------------

FITS = 2**30
BYTES_PER_TOKEN = 2 * 16 * 4 + 8 + 1  # source, target, token, mask


class Counting(ActivationSource):
    """Counts the documents and the forward passes that it is asked for."""

    n_passes = 0

    def of(self, batch: TokenBatch) -> Activations:
        self.n_passes += 1
        return super().of(batch)


def shuffled(
    documents: Iterable[Tensor] | Callable[[], Iterable[Tensor]],
    *,
    buffer_tokens: int = FITS,
    batch_tokens: int = 40,
    whole: bool = True,
    seed: int = 0,
    source: ActivationSource | None = None,
    kind: type[ShuffledStream] = ShuffledStream,
) -> Any:
    source = source or activation_source(random_model())
    generator = torch.Generator().manual_seed(seed)
    order = DocumentOrder(documents if callable(documents) else lambda: documents, seed=seed)
    return kind(
        ModelReader(source, order, special=whole, generator=generator),
        source,
        buffer_tokens=buffer_tokens,
        batch_tokens=batch_tokens,
        whole_sequences=whole,
        generator=generator,
    )


def sequences(batches: Iterable[Activations]) -> Iterator[tuple[int, ...]]:
    for batch in batches:
        for row in range(len(batch.tokens)):
            yield tuple(batch.tokens[row][batch.attended[row]].tolist())


def as_tuples(rows: Iterable[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(row.tolist()) for row in rows]


def small(rows: list[Tensor], share: float = 0.2) -> int:
    """Tokens of a share of the rows."""
    return int(share * sum(len(row) for row in rows))


def test_if_all_fits_the_model_runs_once_for_any_number_of_epochs():
    rows = ragged(60)
    source = Counting(attached(random_model()), long_texts="error")
    stream = shuffled(rows, source=source)
    n_passes = source.n_passes
    assert 0 < n_passes < 60
    for _ in zip(stream, range(200), strict=False):
        pass
    assert stream.epoch >= 4
    list(stream.once(10**9))
    assert source.n_passes == n_passes


def test_if_all_fits_every_epoch_has_every_sequence_once():
    rows = ragged(60)
    stream = shuffled(rows)
    found = list(islice(sequences(stream), 180))
    for epoch in range(3):
        assert sorted(found[60 * epoch : 60 * (epoch + 1)]) == sorted(as_tuples(rows))
    assert found[:60] != found[60:120]


@pytest.mark.parametrize("whole", [True, False])
def test_the_buffer_never_exceeds_its_size_by_more_than_a_sequence(whole: bool):
    rows = ragged(300)
    buffer_tokens = small(rows)
    stream = shuffled(rows, buffer_tokens=buffer_tokens, whole=whole)
    largest = 0
    for _ in islice(stream, 300):
        largest = max(largest, stream._buffer.n_positions)
    assert buffer_tokens // 4 < largest < buffer_tokens + 20


def test_sequences_that_have_left_the_buffer_are_let_go_before_others_come():
    rows = ragged(300)
    buffers: list[weakref.ref[Tensor]] = []
    n_alive: list[int] = []

    class Watched(ShuffledStream):
        """Knows which buffers are in memory while the model runs, whoever holds them."""

        def _read(self) -> Iterator[SequenceColumns]:
            for part in super()._read():
                n_alive.append(sum(buffer() is not None for buffer in buffers))
                yield part

        def _fill(self, bar: Any = None) -> bool:
            ended = super()._fill(bar)
            buffers.append(weakref.ref(self._buffer.parts[0].source))
            return ended

    stream = shuffled(rows, buffer_tokens=small(rows), kind=Watched)
    for _ in zip(stream, range(300), strict=False):
        pass
    assert stream.epoch >= 2
    assert len(buffers) > 10
    assert max(n_alive) == 0


def test_if_not_all_fits_every_sequence_keeps_coming_whole():
    rows = ragged(60)
    stream = shuffled(rows, buffer_tokens=small(rows))
    found = list(islice(sequences(stream), 60 * 12))
    assert set(found) == set(as_tuples(rows))
    counts = {row: found.count(row) / as_tuples(rows).count(row) for row in set(found)}
    assert min(counts.values()) >= 8  # of 12: some still wait in the buffer
    assert max(counts.values()) <= 14


@pytest.mark.parametrize("buffer_tokens", [FITS, 30])
@pytest.mark.parametrize("whole", [True, False])
def test_source_target_and_tokens_of_a_row_stay_together(buffer_tokens: int, whole: bool):
    rows = ragged(60)

    class Planted(ActivationSource):
        """The source tells the token and its sequence; the target is a function of both."""

        def of(self, batch: TokenBatch) -> Activations:
            source = torch.stack([batch.tokens, batch.tokens[:, :1].expand_as(batch.tokens)], dim=2)
            source = torch.cat(
                [source, torch.arange(batch.tokens.shape[1]).expand_as(batch.tokens)[..., None]], 2
            )
            target = source.float() @ torch.tensor([[1.0], [100.0], [10_000.0]])
            parts = (batch.tokens, batch.attended, batch.mask, batch.documents)
            return Activations(source.float(), target, *parts)

    planted = random_model()
    quantizer = CrossLayerQuantizer(CLVQConfig(decoder="table"), 3, 1)
    source = Planted(attach(planted, quantizer, SOURCE, TARGET), long_texts="error")
    stream = shuffled(rows, buffer_tokens=buffer_tokens, whole=whole, source=source)
    for batch in islice(stream, 100):
        x, y = batch.source[batch.attended], batch.target[batch.attended]
        torch.testing.assert_close(x[:, 0].long(), batch.tokens[batch.attended])
        torch.testing.assert_close(x @ torch.tensor([[1.0], [100.0], [10_000.0]]), y)
        if whole:  # rows are sequences in their order
            positions = torch.arange(batch.tokens.shape[1]).expand_as(batch.tokens)
            torch.testing.assert_close(x[:, 2].long(), positions[batch.attended])


def test_batches_hold_about_as_many_positions_as_asked_for():
    stream = shuffled(ragged(200), batch_tokens=64)
    shapes = [tuple(batch.tokens.shape) for batch in islice(stream, 50)]
    assert all(b * pos <= 64 for b, pos in shapes)
    assert sum(b * pos for b, pos in shapes) > 0.7 * 64 * 50


def test_a_batch_smaller_than_a_sequence_still_holds_one():
    stream = shuffled(ragged(30), batch_tokens=1)
    for batch in islice(stream, 30):
        assert len(batch.tokens) == 1


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("buffer_tokens", [FITS, 30])
def test_single_tokens_come_as_sequences_of_one_real_token(
    stories_model, buffer_tokens: int, whole: bool
):
    source = activation_source(stories_model)
    bos = stories_model.tokenizer.bos_token_id
    texts = ["Once upon a time.", "Lily had a dog.", "They ran home."]
    stream = shuffled(
        texts, source=source, whole=whole, buffer_tokens=buffer_tokens, batch_tokens=7
    )
    words = {
        int(token) for text in texts for token in stories_model.to_tokens(text)[0] if token != bos
    }
    found: set[int] = set()
    for batch in islice(stream.single_tokens() if whole else stream, 60):
        assert batch.tokens.shape[1] == 1
        assert 0 < len(batch.tokens) <= 7
        assert batch.mask.all()
        assert batch.attended.all()
        found |= set(batch.tokens.flatten().tolist())
    assert found == words


@pytest.mark.parametrize("whole", [True, False])
def test_single_tokens_of_different_sequences_are_mixed(whole: bool):
    rows = [torch.full((20,), number) for number in range(40)]
    batch = next(shuffled(rows, whole=whole, batch_tokens=100).single_tokens())
    assert len(batch.tokens.unique()) > 25  # whole sequences would give five


def test_an_epoch_of_single_tokens_has_every_token_once():
    rows = ragged(60)
    stream = shuffled(rows, whole=False)
    n_tokens = sum(map(len, rows))
    found: list[int] = []
    while len(found) < n_tokens:
        for batch in stream:
            found += batch.tokens.flatten().tolist()
            if len(found) >= n_tokens:
                break
    assert sorted(found) == sorted(torch.cat(rows).tolist())


@pytest.mark.parametrize("buffer_tokens", [FITS, 30])
@pytest.mark.parametrize("whole", [True, False])
def test_the_seed_decides_the_order(buffer_tokens: int, whole: bool):
    rows = ragged(60)

    def order(seed: int) -> list[tuple[int, ...]]:
        stream = shuffled(rows, buffer_tokens=buffer_tokens, whole=whole, seed=seed)
        return list(islice(sequences(stream), 200))

    assert order(0) == order(0)
    assert order(0) != order(1)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("buffer_tokens", [FITS, 30])
def test_once_gives_each_real_token_once(buffer_tokens: int, whole: bool):
    rows = ragged(60)
    stream = shuffled(rows, buffer_tokens=buffer_tokens, whole=whole)
    for _ in islice(stream, 17):  # somewhere in an epoch
        pass
    epoch = stream.epoch
    for _ in range(2):
        found = torch.cat([batch.tokens[batch.mask] for batch in stream.once(10**9)])
        assert sorted(found.tolist()) == sorted(torch.cat(rows).tolist())
    assert stream.epoch == epoch


def test_the_first_batches_of_once_are_not_the_shortest_sequences():
    """Initialization samples from the first batches only, if there are more than enough."""
    rows = [torch.zeros(1 + number % 20, dtype=torch.long) for number in range(200)]
    found = [len(batch.tokens[0]) for batch in shuffled(rows, batch_tokens=40).once(10**9)]
    half = len(found) // 2
    assert max(found[:half]) > 15
    assert min(found[half:]) < 6


def test_a_stream_tells_epochs_and_documents():
    rows = ragged(60)
    stream = shuffled(rows)
    assert (stream.epoch, stream.n_documents) == (0, 60)
    for _ in zip(stream, range(100), strict=False):
        pass
    assert stream.epoch >= 2

    stream = shuffled(rows, buffer_tokens=small(rows))
    seen = [stream.epoch]
    for _ in islice(stream, 200):
        seen.append(stream.epoch)
    assert seen == sorted(seen)
    assert seen[-1] >= 3
    assert stream.n_documents == 60


def test_documents_are_read_anew_for_every_epoch():
    n_readings = 0

    def documents() -> Iterator[Tensor]:
        nonlocal n_readings
        n_readings += 1
        yield from ragged(60)

    stream = shuffled(documents, buffer_tokens=small(ragged(60)))
    for _ in islice(stream, 200):
        pass
    assert n_readings == stream.epoch + 1


def test_sequences_without_a_real_token_are_left_out(stories_model):
    """A batch of nothing but BOS would have a loss of 0 / 0."""
    source = activation_source(stories_model)
    bos = stories_model.tokenizer.bos_token_id
    rows = [torch.tensor([bos])] * 50 + [torch.tensor([bos, 300, 301])]
    stream = shuffled(rows, source=source, batch_tokens=8)
    assert all(batch.n_tokens > 0 for batch in islice(stream, 20))


def test_documents_without_a_real_token_give_an_empty_stream(stories_model):
    source = activation_source(stories_model)
    bos = stories_model.tokenizer.bos_token_id
    for whole in (True, False):
        stream = shuffled([torch.tensor([bos, bos])] * 3, source=source, whole=whole)
        assert list(islice(stream, 10)) == []
        assert sum(batch.n_tokens for batch in stream.once(10**9)) == 0
