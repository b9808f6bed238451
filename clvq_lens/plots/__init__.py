"""Plotly figures from plain arrays, from tables, or from results that give a table.

Each function returns a figure and shows nothing. Importing this package does not load plotly.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from clvq_lens.plots.alignment import plot_alignment as plot_alignment
    from clvq_lens.plots.codebook import plot_codebook as plot_codebook
    from clvq_lens.plots.collapse import plot_collapse as plot_collapse
    from clvq_lens.plots.colours import code_colours as code_colours
    from clvq_lens.plots.comparison import plot_comparison as plot_comparison
    from clvq_lens.plots.concepts import plot_concepts as plot_concepts
    from clvq_lens.plots.concepts import plot_usage as plot_usage
    from clvq_lens.plots.detection import plot_detection as plot_detection
    from clvq_lens.plots.evaluation import plot_cross_entropy as plot_cross_entropy
    from clvq_lens.plots.evaluation import plot_recovery as plot_recovery
    from clvq_lens.plots.faithfulness import plot_faithfulness as plot_faithfulness
    from clvq_lens.plots.flow import plot_causal_flow as plot_causal_flow
    from clvq_lens.plots.flow import plot_flow as plot_flow
    from clvq_lens.plots.interventions import plot_ablations as plot_ablations
    from clvq_lens.plots.interventions import (
        plot_ablations_by_position as plot_ablations_by_position,
    )
    from clvq_lens.plots.interventions import plot_attribution as plot_attribution
    from clvq_lens.plots.interventions import plot_patching as plot_patching
    from clvq_lens.plots.methods import plot_methods as plot_methods
    from clvq_lens.plots.norms import plot_norms as plot_norms
    from clvq_lens.plots.salience import plot_salience as plot_salience
    from clvq_lens.plots.sentence import plot_sentence as plot_sentence
    from clvq_lens.plots.settings import plot_settings as plot_settings
    from clvq_lens.plots.stability import plot_stability as plot_stability
    from clvq_lens.plots.strip import plot_token_strip as plot_token_strip
    from clvq_lens.plots.training import plot_history as plot_history

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "alignment": ["plot_alignment"],
        "codebook": ["plot_codebook"],
        "collapse": ["plot_collapse"],
        "colours": ["code_colours"],
        "comparison": ["plot_comparison"],
        "concepts": ["plot_concepts", "plot_usage"],
        "detection": ["plot_detection"],
        "evaluation": ["plot_cross_entropy", "plot_recovery"],
        "faithfulness": ["plot_faithfulness"],
        "flow": ["plot_causal_flow", "plot_flow"],
        "interventions": [
            "plot_ablations",
            "plot_ablations_by_position",
            "plot_attribution",
            "plot_patching",
        ],
        "methods": ["plot_methods"],
        "norms": ["plot_norms"],
        "salience": ["plot_salience"],
        "sentence": ["plot_sentence"],
        "stability": ["plot_stability"],
        "settings": ["plot_settings"],
        "strip": ["plot_token_strip"],
        "training": ["plot_history"],
    },
)
