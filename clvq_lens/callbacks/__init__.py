"""Ready callbacks of a fit: its course goes to a file, to TensorBoard or to Weights & Biases.

Pass them as ``lens.fit(data, callbacks=[JSONLines("fit.jsonl")])``, like any other
`clvq_lens.Callback`. Importing this package loads no tracker.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from clvq_lens.callbacks.json_lines import JSONLines as JSONLines
    from clvq_lens.callbacks.tensor_board import TensorBoard as TensorBoard
    from clvq_lens.callbacks.weights_and_biases import WandB as WandB

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "json_lines": ["JSONLines"],
        "tensor_board": ["TensorBoard"],
        "weights_and_biases": ["WandB"],
    },
)
