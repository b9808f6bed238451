"""What is taken out of each text: the code of its most salient token, or a control."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from clvq_lens.errors import DataError
from clvq_lens.faithfulness.reading import TextCodes
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer

CONCEPT = "concept"
RANDOM_DIRECTION = "random direction"
OF_ANOTHER_CLASS = "code of another class"
OF_THE_TEXT = "another code of the text"
_NEAR_IN_SHARE = 10  # codes among which a share-matched one is drawn


@dataclass(frozen=True)
class Removal:
    """What is taken out of the texts in one condition.

    Attributes:
        condition: "concept" or the name of a control.
        codes: Draws for each text; one of the concept itself. None: a direction, not a code.
        directions: The same as vectors.
    """

    condition: str
    codes: Int[np.ndarray, "n draws"] | None
    directions: Float[np.ndarray, "n draws d"]


@dataclass(frozen=True)
class Codes:
    """A codebook with its usage.

    Attributes:
        vectors: Code vectors.
        usage: Training tokens of each code.
    """

    vectors: Float[np.ndarray, "k d"]
    usage: Int[np.ndarray, " k"]

    @classmethod
    def of(cls, quantizer: CrossLayerQuantizer) -> "Codes":
        """Those of a fitted quantizer."""
        vectors = quantizer.codebook.vectors.detach().double().cpu().numpy()
        return cls(vectors, quantizer.usage.cpu().numpy())

    def centered(self, removal: Removal) -> Float[np.ndarray, "n draws d"]:
        """The directions of a removal less the mean code vector; random ones have no such mean."""
        if removal.codes is None:
            return removal.directions
        return removal.directions - self.usage @ self.vectors / self.usage.sum()


def removals(
    salient: Int[np.ndarray, " n"],
    of_texts: TextCodes,
    labels: Int[np.ndarray, " n"],
    codes: Codes,
    *,
    n_draws: int,
    random: np.random.Generator,
) -> list[Removal]:
    """The concept of each text and its controls.

    Controls: a code drawn from all that are in use; one of about the same share; the most salient
    code of a text of another class; the code of another token of the same text (itself, if the text
    has no other); a direction from a normal distribution.

    Args:
        salient: The code of each text's most salient token.
        of_texts: The codes of all their tokens.
        labels: The class of each text.
        codes: The codebook.
        n_draws: Of each control.
        random: Makes the draws.

    Raises:
        DataError: If fewer than two codes are in use.
    """
    used = np.flatnonzero(codes.usage)
    if len(used) < 2:
        raise DataError(
            "Only one code is in use, so there is nothing to compare it with. Fit more codes."
        )
    pools = {
        "random code": [used] * len(salient),
        "share-matched code": _near_in_share(salient, used, codes.usage),
        OF_ANOTHER_CLASS: [salient[labels != label] for label in labels],
        OF_THE_TEXT: list(of_texts.codes),
    }
    found = [Removal(CONCEPT, salient[:, None], codes.vectors[salient[:, None]])]
    for condition, pool in pools.items():
        pairs = zip(pool, salient.tolist(), strict=True)
        drawn = np.stack([_draw(some, own, n_draws, random) for some, own in pairs])
        found.append(Removal(condition, drawn, codes.vectors[drawn]))
    shape = (len(salient), n_draws, codes.vectors.shape[1])
    return [*found, Removal(RANDOM_DIRECTION, None, random.standard_normal(shape))]


def _near_in_share(
    salient: Int[np.ndarray, " n"], used: Int[np.ndarray, " u"], usage: Int[np.ndarray, " k"]
) -> list[np.ndarray]:
    """For each text, the codes whose usage is nearest, in ratio, to that of its concept."""
    pools = {}
    for code in np.unique(salient):
        others = used[used != code]
        distance = np.abs(np.log(usage[others]) - np.log(max(usage[code], 1)))
        pools[code] = others[np.argsort(distance, kind="stable")[:_NEAR_IN_SHARE]]
    return [pools[code] for code in salient]


def _draw(
    pool: Int[np.ndarray, " p"], own: int, n_draws: int, random: np.random.Generator
) -> Int[np.ndarray, " draws"]:
    """Codes from a pool, other than the concept itself as far as there are others."""
    others = pool[pool != own]
    return random.choice(others if len(others) else np.array([own]), size=n_draws)


def project_out(
    vectors: Float[np.ndarray, "n d"],
    directions: Float[np.ndarray, "n draws d"],
    origin: Float[np.ndarray, " d"],
) -> Float[np.ndarray, "n draws d"]:
    """h - u u.(h - m), with u the unit direction and m the origin, for each text and draw.

    Raw, as published (arXiv 2506.20040): m is zero. Centred: m is the mean vector, which stays.
    """
    length = np.linalg.norm(directions, axis=-1, keepdims=True)
    unit = directions / np.maximum(length, np.finfo(np.float64).tiny)
    along = np.einsum("nd,nrd->nr", vectors - origin, unit)
    return vectors[:, None] - along[..., None] * unit
