"""Vectors that come from elsewhere: a quantizer is fitted and evaluated on them without a model."""

import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Unpack

import numpy as np
import pandas as pd
import torch
import xxhash
from jaxtyping import Float, Int
from torch import Tensor

from clvq_lens.add import add_clvq
from clvq_lens.arguments import check_flags
from clvq_lens.config import CLVQConfig, CLVQOptions
from clvq_lens.data.document import Corpus
from clvq_lens.data.store.stored_activations import StoredActivations
from clvq_lens.data.store.vector_shard import VectorShard
from clvq_lens.errors import ConfigError, DataError, EmptyCorpusError, HostMismatchError, ShapeError
from clvq_lens.host.host import Host
from clvq_lens.host.protocol.without_model import SOURCE, TARGET, VectorModel
from clvq_lens.lens import Lens
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer

Vectors = Tensor | np.ndarray
Integers = Tensor | np.ndarray | Sequence[int]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_SHARD_BYTES = 2**26
_BLOCK = 64  # tokens in a row that count as a document where nobody knows the documents
_LEAST_CONTEXT = 1_024
_MOST_TOKEN = 2**31 - 2


def activations(
    source: Vectors,
    target: Vectors,
    *,
    tokens: Integers | None = None,
    documents: Integers | None = None,
    causal: bool = True,
) -> "VectorData":
    """Vectors from elsewhere, such as a capture of vLLM or nnsight, as data for a quantizer.

    They are read piece by piece and never copied as a whole, so a `numpy.memmap` may be larger
    than the memory. Leave out padding and special tokens such as BOS.

    Args:
        source: A vector of each token at the source, [token, d_source], in float16, bfloat16 or
            float32.
        target: A vector of each token at the target, [token, d_target].
        tokens: The id of each token. None: tables of concepts cannot name tokens.
        documents: A number for each token, the same for all tokens of a document, which stand in
            their order. None: a decoder that reads sequences cannot be fitted, and every 64 tokens
            count as a document, of which some are held out and intervals are made.
        causal: Whether tokens of the model saw only earlier tokens; a decoder of sequences does as
            they do.

    Returns:
        Data, which `fit`, `evaluate`, `concepts`, `baseline` and `compare` take; its ``add_clvq``
        makes the lens.

    Raises:
        DataError: If an argument has another type or length, or a document is in two places.
        ShapeError: If the vectors are no rows, or these differ in number.
        EmptyCorpusError: If there is no vector.

    Example:
        >>> x = torch.randn(4_000, 8)
        >>> data = activations(source=x, target=x.roll(1, dims=1))
        >>> lens = data.add_clvq(n_codes=16, decoder="table")
        >>> history = lens.fit(data, progress=False)
        >>> evaluation = lens.evaluate(data, progress=False)
    """
    check_flags(causal=causal)
    x, y = _vectors("source", source), _vectors("target", target)
    if len(x) != len(y):
        raise ShapeError(
            f"There are {len(x)} vectors at the source and {len(y)} at the target. Pass both of "
            f"the same tokens, in the same order."
        )
    ids = None if tokens is None else _integers("tokens", tokens, len(x))
    if ids is not None and not 0 <= int(ids.min()) <= int(ids.max()) <= _MOST_TOKEN:
        raise DataError(
            f"The tokens reach from {int(ids.min())} to {int(ids.max())}. Pass ids from 0 to "
            f"2**31 - 2."
        )
    lengths = _blocks(len(x))
    if documents is not None:
        lengths = _lengths(_integers("documents", documents, len(x)))
    return VectorData(
        {SOURCE: x, TARGET: y}, ids, lengths, knows_documents=documents is not None, causal=causal
    )


class VectorData(StoredActivations):
    """Vectors of documents at a source and a target; made by `activations`.

    Args:
        points: The vectors at both points.
        tokens: Token ids, if they are known.
        lengths: Tokens of each document.
        knows_documents: Whether these are documents, and not any tokens in a row.
        causal: Whether tokens of the model saw only earlier tokens.
    """

    def __init__(
        self,
        points: dict[str, Float[Tensor, "n _"]],
        tokens: Int[Tensor, " n"] | None,
        lengths: Int[Tensor, " s"],
        *,
        knows_documents: bool,
        causal: bool,
    ) -> None:
        self._points, self._tokens, self._lengths = points, tokens, lengths
        self._knows_documents = knows_documents
        self.corpus = Corpus()
        self.model = VectorModel(
            points[SOURCE].shape[1],
            points[TARGET].shape[1],
            causal=causal,
            longest=max(_LEAST_CONTEXT, int(lengths.max())),
        )
        """Takes the place of the model that nobody has; ``data.model.to(device)`` moves lenses."""

    def add_clvq(
        self,
        *,
        name: str | None = None,
        config: CLVQConfig | None = None,
        quantizer: CrossLayerQuantizer | None = None,
        **options: Unpack[CLVQOptions],
    ) -> Lens:
        """A lens from the source to the target of these vectors.

        It can be fitted, evaluated, saved and compared, also on other vectors of the same widths.
        What needs a model raises `ModelNeededError`.

        Args:
            name: Name of the lens; None: "source-target".
            config: The quantizer's options; None: the defaults.
            quantizer: A quantizer that was fitted on vectors, from `clvq_lens.load`.
            **options: Options of `CLVQConfig` by name, such as n_codes.

        Raises:
            ConfigError: If an option does not exist or is impossible.
            HostMismatchError: If ``quantizer`` was fitted on a model, or on other widths.
        """
        if quantizer is None:
            return add_clvq(self.model, SOURCE, TARGET, name=name, config=config, **options)
        lens = add_clvq(self.model, name=name, config=config, quantizer=quantizer, **options)
        try:
            self._require_widths(quantizer.d_source, quantizer.d_target)
        except HostMismatchError:
            lens.remove()
            raise
        return lens

    # ---- what it holds -------------------------------------------------------------------------

    @property
    def place(self) -> str:
        """What messages call them."""
        return "What clvq_lens.activations returned"

    @property
    def points(self) -> tuple[str, ...]:
        """The source and the target."""
        return tuple(self._points)

    @property
    def n_tokens(self) -> int:
        """Number of tokens."""
        return len(self._points[SOURCE])

    @property
    def n_documents(self) -> int:
        """Number of documents."""
        return len(self._lengths)

    def headline(self) -> str:
        """How many tokens and documents."""
        documents = "blocks of tokens"
        if self._knows_documents:
            documents = "documents"
        return f"{self.n_tokens:,} tokens in {self.n_documents:,} {documents}"

    def preview(self) -> pd.DataFrame:
        """Widths and dtypes."""
        rows: list[dict[str, object]] = []
        for point, vectors in self._points.items():
            dtype = str(vectors.dtype).removeprefix("torch.")
            rows.append({"point": point, "width": vectors.shape[1], "dtype": dtype})
        return pd.DataFrame(rows)

    # ---- as data -------------------------------------------------------------------------------

    @cached_property
    def shards(self) -> list[VectorShard]:
        """Documents in parts, none of which is read before it is used."""
        starts = self._lengths.cumsum(0) - self._lengths
        row_bytes = sum(vectors[:1].nbytes for vectors in self._points.values())
        shard_of_document = starts * row_bytes // _SHARD_BYTES
        n_documents = shard_of_document.unique_consecutive(return_counts=True)[1].tolist()
        shards: list[VectorShard] = []
        row = first = 0
        for lengths in self._lengths.split(n_documents):
            end = row + int(lengths.sum())
            points = {name: vectors[row:end] for name, vectors in self._points.items()}
            tokens = None if self._tokens is None else self._tokens[row:end]
            shards.append(VectorShard(points, tokens, lengths, first))
            row, first = end, first + len(lengths)
        return shards

    @property
    def identity(self) -> dict[str, Any]:
        """What has to be the same for a fit to go on."""
        return {"model": self.model.cfg.model_name, "data": self.digest}

    @property
    def digest(self) -> str:
        """A digest of vectors, tokens and documents; it reads all of them, shard by shard."""
        digest = xxhash.xxh3_128()
        for shard in self.shards:
            for column in (
                *(shard.activations(point) for point in self.points),
                shard.tokens,
                shard.lengths,
            ):
                digest.update(f"{column.dtype} {list(column.shape)} ".encode())
                digest.update(column.contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def require_model(self, host: Host) -> None:
        """Raises `HostMismatchError` for a lens on a model, or for vectors of other widths."""
        if host.runs:
            raise HostMismatchError(
                "These vectors are of no model that this lens knows. Make a lens for them: "
                "data.add_clvq(...), or cache the activations of its model: "
                "clvq_lens.cache_activations(model, ...)."
            )
        self._require_widths(host.width(SOURCE), host.width(TARGET))

    def _require_widths(self, d_source: int, d_target: int) -> None:
        mine = tuple(self.model.widths.values())
        if mine != (d_source, d_target):
            raise HostMismatchError(
                f"The vectors have widths {mine[0]} and {mine[1]}, and the lens was made for "
                f"{d_source} and {d_target}. Pass vectors of the same model and layers."
            )

    def require_sequences(self) -> None:
        """Raises `ConfigError` if it is not known where documents begin and end."""
        if not self._knows_documents:
            raise ConfigError(
                "The decoder reads sequences, and nobody knows where they begin and end. Pass "
                "documents=, a number for each token, to clvq_lens.activations, or "
                "decoder='table' or 'mlp' to add_clvq."
            )


# ---- what a user passed --------------------------------------------------------------------------


def _vectors(name: str, values: object) -> Float[Tensor, "n d"]:
    """Vectors as a tensor that shares their memory.

    Raises:
        DataError: If they have another type.
        ShapeError: If they are no rows.
        EmptyCorpusError: If there is none.
    """
    if isinstance(values, np.ndarray):
        if values.dtype not in (np.float16, np.float32):
            raise DataError(
                f"The {name} is an array of {values.dtype}. Pass float16 or float32, or a torch "
                f"tensor for bfloat16."
            )
        values = _shared(name, values)
    if not isinstance(values, Tensor) or values.dtype not in _DTYPES:
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise DataError(
            f"The {name} is {kind}. Pass a torch tensor or a numpy array of float16, bfloat16 or "
            f"float32."
        )
    if values.ndim != 2 or not values.shape[1]:
        raise ShapeError(
            f"The {name} has shape {list(values.shape)}. Pass a vector for each token: [token, "
            f"width], without padding."
        )
    if not len(values):
        raise EmptyCorpusError(f"The {name} holds no vector. Pass one at least.")
    return values.detach().cpu()


def _shared(name: str, values: np.ndarray) -> Tensor:
    """An array as a tensor, without a copy."""
    try:
        with warnings.catch_warnings():
            # That the array cannot be written to: nobody is going to.
            warnings.simplefilter("ignore", UserWarning)
            return torch.from_numpy(np.asarray(values))
    except (TypeError, ValueError) as error:  # another byte order, or rows in reverse
        raise DataError(
            f"The {name} cannot be read without a copy: {error} Pass np.ascontiguousarray(array) "
            f"in the byte order of this machine."
        ) from error


def _integers(name: str, values: Integers, n: int) -> Int[Tensor, " n"]:
    """Whole numbers, one for each token."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "iu" or array.shape != (n,):
        raise DataError(
            f"The {name} are {array.dtype} of shape {list(array.shape)}. Pass a whole number for "
            f"each of the {n} vectors."
        )
    return torch.from_numpy(array.astype(np.int64))


def _lengths(documents: Int[Tensor, " n"]) -> Int[Tensor, " s"]:
    """Tokens of each document."""
    numbers, lengths = documents.unique_consecutive(return_counts=True)
    found, counts = numbers.unique(return_counts=True)
    if len(found) < len(numbers):
        twice = int(found[counts > 1][0])
        raise DataError(
            f"Document {twice} is in two places, with others between. Pass all tokens of a "
            f"document one after the other, and another number for another document."
        )
    return lengths


def _blocks(n: int) -> Int[Tensor, " s"]:
    """Lengths of blocks of tokens that stand for documents."""
    lengths = torch.full((-(-n // _BLOCK),), _BLOCK)
    lengths[-1] -= int(lengths.sum()) - n
    return lengths
