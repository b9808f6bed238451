"""What a removal does to predictions, text by text."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

UNPERTURBED = "unperturbed"


@dataclass(frozen=True)
class Effect:
    """Predictions in one condition; values are means over draws.

    Attributes:
        place: "probe" or "model".
        ablation: "raw", "centered", "code", or "" where nothing was removed.
        condition: What was removed.
        correct: Whether the class of the text is predicted, for each text.
        probability: Probability of the class of the text.
        changed: Whether another class is predicted than without the removal.
        retrained: Whether a probe that was fitted on such vectors predicts the class of the text.
    """

    place: str
    ablation: str
    condition: str
    correct: Float[np.ndarray, " n"]
    probability: Float[np.ndarray, " n"]
    changed: Float[np.ndarray, " n"]
    retrained: Float[np.ndarray, " n"] | None = None


def effect(
    name: tuple[str, str, str],
    probabilities: Float[np.ndarray, "n draws c"],
    unperturbed: Float[np.ndarray, "n c"],
    classes: Int[np.ndarray, " n"],
    retrained: Float[np.ndarray, " n"] | None = None,
) -> Effect:
    """The effect of a removal, from probabilities of classes with and without it.

    Args:
        name: Place, ablation and condition.
        probabilities: Probabilities with the removal, for each draw.
        unperturbed: Probabilities without it.
        classes: The class of each text.
        retrained: Whether a probe fitted on such vectors is right.
    """
    predicted = probabilities.argmax(-1)
    of_class = np.take_along_axis(probabilities, classes[:, None, None], axis=-1)[..., 0]
    return Effect(
        *name,
        correct=(predicted == classes[:, None]).mean(1),
        probability=of_class.mean(1),
        changed=(predicted != unperturbed.argmax(-1)[:, None]).mean(1),
        retrained=retrained,
    )
