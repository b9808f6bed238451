"""Discrete concepts between two layers of a language model, as a TransformerLens plugin.

Importing this package is cheap and gives every TransformerLens model ``add_clvq``; torch and
TransformerLens are imported when something that needs them is first used.

What ``dir(clvq_lens)`` lists is public. Every other module is internal and may change.
"""

from importlib.metadata import version

import lazy_loader

import clvq_lens.install  # noqa: F401  # gives the host classes add_clvq

__version__ = version("clvq-lens")
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
