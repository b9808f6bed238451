"""A small world with known concepts, and a model really trained on it.

``load()`` gives the model and texts it was not trained on, ``generate(...)`` more texts,
``token_labels(texts)`` the true concept of every token, ``entropy(texts)`` the smallest loss that
any model can reach on them. Importing this package loads neither torch nor transformer_lens.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from clvq_lens.toy.labeling import entropy as entropy
    from clvq_lens.toy.labeling import generate as generate
    from clvq_lens.toy.labeling import token_labels as token_labels
    from clvq_lens.toy.lexicon import AMBIGUOUS as AMBIGUOUS
    from clvq_lens.toy.lexicon import CONCEPTS as CONCEPTS
    from clvq_lens.toy.world import ToyWorld as ToyWorld
    from clvq_lens.toy.world import load as load

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "labeling": ["entropy", "generate", "token_labels"],
        "lexicon": ["AMBIGUOUS", "CONCEPTS"],
        "world": ["ToyWorld", "load"],
    },
)
