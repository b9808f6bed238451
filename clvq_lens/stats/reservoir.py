"""A uniform sample of a stream of any length."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from clvq_lens.errors import ConfigError, ShapeError, TooFewTokensError
from clvq_lens.stats.precision import best_float


class Reservoir:
    """A uniform sample, without replacement, of the rows of a stream.

    Every row has a random key, and the rows with the smallest keys stay: whatever the batches, each
    set of ``capacity`` rows is equally likely.

    Args:
        capacity: Most rows to hold.
        generator: Draws the keys; keys and rows are held on its device.

    Raises:
        ConfigError: If ``capacity`` is below one.

    Example:
        >>> reservoir = Reservoir(100, torch.Generator().manual_seed(0))
        >>> for _ in range(5):
        ...     reservoir.add_(torch.randn(64, 8), torch.arange(64))
        >>> rows, numbers = reservoir.sample()
        >>> rows.shape, numbers.shape, reservoir.n_seen
        (torch.Size([100, 8]), torch.Size([100]), 320)
    """

    def __init__(self, capacity: int, generator: torch.Generator) -> None:
        if capacity < 1:
            raise ConfigError(
                f"A reservoir of {capacity} rows holds nothing; capacity must be 1 or more."
            )
        self.capacity = capacity
        self.n_seen = 0
        self._generator = generator
        self._columns: list[Tensor] = []
        self._key_dtype = best_float(generator.device)
        self._keys = torch.full(
            (capacity,), torch.inf, dtype=self._key_dtype, device=generator.device
        )

    def add_(
        self, *columns: Shaped[Tensor, "n ..."], keys: Float[Tensor, " n"] | None = None
    ) -> None:
        """Shows it the next rows of the stream.

        Args:
            *columns: The rows, in one or several columns; as many columns in every call.
            keys: Random numbers in [0, 1), one for each row; None: drawn here.

        Raises:
            ShapeError: If the rows are not as wide as those before them.
        """
        if not self._columns:  # widths and dtypes are not known before
            for column in columns:
                shape = (self.capacity, *column.shape[1:])
                self._columns.append(column.new_empty(shape, device=self._keys.device))
        self._check_widths(columns)
        n_rows = len(columns[0])
        self.n_seen += n_rows
        if keys is None:
            keys = torch.rand(
                n_rows, generator=self._generator, device=self._keys.device, dtype=self._key_dtype
            )
        # Empty places have infinite keys, so they are the first to be taken.
        every_key = torch.cat([self._keys, keys])
        is_held = torch.zeros_like(every_key, dtype=torch.bool)
        is_held[every_key.topk(self.capacity, largest=False).indices] = True
        free = (~is_held[: self.capacity]).nonzero().squeeze(1)
        new = is_held[self.capacity :].nonzero().squeeze(1)
        self._keys[free] = every_key[self.capacity + new]
        for held, column in zip(self._columns, columns, strict=True):
            held[free] = column.detach()[new.to(column.device)].to(held)

    def _check_widths(self, columns: tuple[Tensor, ...]) -> None:
        for held, column in zip(self._columns, columns, strict=True):
            if column.shape[1:] != held.shape[1:]:
                raise ShapeError(
                    f"Rows of shape {list(column.shape[1:])} came after rows of shape "
                    f"{list(held.shape[1:])}. All rows of a stream have one shape: use a reservoir "
                    f"for each hook point."
                )

    @property
    def keys(self) -> Float[Tensor, " m"]:
        """The keys of the rows that `sample` gives, in the same order."""
        return self._keys[self._keys.isfinite()]

    def sample(self) -> tuple[Shaped[Tensor, "m ..."], ...]:
        """A copy of each column of the rows it holds: all it has seen, or ``capacity`` of them.

        Raises:
            TooFewTokensError: If it has seen none.
        """
        if self.n_seen == 0:
            raise TooFewTokensError("The reservoir has seen no rows. Call add_ before sample.")
        taken = self._keys.isfinite()
        return tuple(column[taken] for column in self._columns)
