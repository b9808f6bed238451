"""What is taken out of each text: the code of its most salient token, or a control."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from clvq_lens.errors import DataError
from clvq_lens.faithfulness.tokenized_texts import TextCodes
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.stats.matched import nearest_in_share
from clvq_lens.stats.projection import project_out, unit_basis

CONCEPT = "concept"
RANDOM_DIRECTION = "random direction"
OF_ANOTHER_CLASS = "code of another class"
OF_THE_TEXT = "another code of the text"


@dataclass(frozen=True)
class Removal:
    """What is taken out of the texts in one condition.

    Attributes:
        condition: "concept" or the name of a control.
        codes: Draws for each text; one of the concept itself. None: a direction, not a code.
        directions: The code vectors, or the directions.
    """

    condition: str
    codes: Int[np.ndarray, "n draws"] | None
    directions: Float[np.ndarray, "n draws d"]


@dataclass(frozen=True)
class WeightedCodebook:
    """The code vectors of a quantizer, weighted by their usage.

    Attributes:
        vectors: Code vectors.
        usage: Training tokens of each code.
    """

    vectors: Float[np.ndarray, "k d"]
    usage: Int[np.ndarray, " k"]

    @classmethod
    def of(cls, quantizer: CrossLayerQuantizer) -> "WeightedCodebook":
        """The codebook of a fitted quantizer."""
        vectors = quantizer.source_vectors.detach().double().cpu().numpy()
        return cls(vectors, quantizer.usage.cpu().numpy())

    def centered(self, removal: Removal) -> Float[np.ndarray, "n draws d"]:
        """The directions of a removal less the mean code vector.

        Code vectors share a large mean, so that projecting out a raw one takes out the mean.
        """
        if removal.codes is None:  # random directions share no mean
            return removal.directions
        return removal.directions - self.usage @ self.vectors / self.usage.sum()


def draw_removals(
    salient: Int[np.ndarray, " n"],
    of_texts: TextCodes,
    classes: Int[np.ndarray, " n"],
    codebook: WeightedCodebook,
    *,
    n_draws: int,
    random: np.random.Generator,
) -> list[Removal]:
    """The concept of each text and its controls.

    Controls: a code drawn from all that are in use; one drawn from the five nearest in share; the
    most salient code of a text of another class; the code of another token of the same text
    (itself, if the text has no other); a direction from a normal distribution.

    Args:
        salient: The code of each text's most salient token.
        of_texts: The codes of all their tokens.
        classes: The class of each text.
        codebook: The codebook.
        n_draws: Draws of each control.
        random: Makes the draws.

    Raises:
        DataError: If fewer than two codes are in use.
    """
    used = np.flatnonzero(codebook.usage)
    if len(used) < 2:
        raise DataError(
            "Only one code is in use, so there is nothing to compare it with. Fit more codes."
        )
    # Pools repeat a code as often as it is salient or stands in the text, so draws follow that.
    pools = {
        "random code": [used] * len(salient),
        "share-matched code": _near_in_share(salient, codebook.usage),
        OF_ANOTHER_CLASS: _of_another_class(salient, classes),
        OF_THE_TEXT: list(of_texts.codes),
    }
    removals = [Removal(CONCEPT, salient[:, None], codebook.vectors[salient[:, None]])]
    for condition, pool_of_texts in pools.items():
        codes = np.empty((len(salient), n_draws), dtype=np.int64)
        for text, pool in enumerate(pool_of_texts):
            codes[text] = _draw(pool, int(salient[text]), n_draws, random)
        removals.append(Removal(condition, codes, codebook.vectors[codes]))
    shape = (len(salient), n_draws, codebook.vectors.shape[1])
    removals.append(Removal(RANDOM_DIRECTION, None, random.standard_normal(shape)))
    return removals


def _of_another_class(
    salient: Int[np.ndarray, " n"], classes: Int[np.ndarray, " n"]
) -> list[np.ndarray]:
    """For each text, the most salient codes of all texts of other classes."""
    return [salient[classes != number] for number in classes]


def _near_in_share(
    salient: Int[np.ndarray, " n"], usage: Int[np.ndarray, " k"]
) -> list[np.ndarray]:
    """For each text, the codes whose usage is nearest, in ratio, to that of its concept."""
    pools: dict[int, np.ndarray] = {}
    for code in set(salient.tolist()):  # once for each code: many texts share one
        pools[code] = nearest_in_share(usage, code)
    return [pools[code] for code in salient.tolist()]


def _draw(
    pool: Int[np.ndarray, " p"], own: int, n_draws: int, random: np.random.Generator
) -> Int[np.ndarray, " draws"]:
    """Codes from a pool, other than the concept itself as far as there are others."""
    others = pool[pool != own]
    # A text of one code alone keeps it: its control then shows no difference, which is right.
    return random.choice(others if len(others) else np.array([own]), size=n_draws)


def without_directions(
    vectors: Float[np.ndarray, "n d"],
    directions: Float[np.ndarray, "n draws d"],
    origin: Float[np.ndarray, " d"],
) -> Float[np.ndarray, "n draws d"]:
    """Vectors without one direction each, for each text and draw.

    Raw, as published: the origin is zero. Centered: it is the mean vector, which stays.
    """
    x = torch.from_numpy(vectors)[:, None, None]  # [n, draws, one row for a matrix product, d]
    basis = unit_basis(torch.from_numpy(directions))
    return project_out(x, basis, torch.from_numpy(origin)).squeeze(2).numpy()
