"""Plotly figures from plain arrays, from tables, or from results that give a table.

Each function returns a figure and shows nothing. Importing this package does not load plotly.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from clvq_lens.plots.alignment_panels import plot_alignment as plot_alignment
    from clvq_lens.plots.codebook_map import plot_codebook as plot_codebook
    from clvq_lens.plots.colors import code_colors as code_colors
    from clvq_lens.plots.comparison_panels import plot_comparison as plot_comparison
    from clvq_lens.plots.concepts import plot_concepts as plot_concepts
    from clvq_lens.plots.concepts import plot_usage as plot_usage
    from clvq_lens.plots.concordance_points import plot_concordance as plot_concordance
    from clvq_lens.plots.detection_points import plot_detection as plot_detection
    from clvq_lens.plots.evaluation_bars import plot_evaluations as plot_evaluations
    from clvq_lens.plots.evaluation_panels import plot_cross_entropy as plot_cross_entropy
    from clvq_lens.plots.evaluation_panels import plot_recovery as plot_recovery
    from clvq_lens.plots.flow_diagrams import plot_causal_flow as plot_causal_flow
    from clvq_lens.plots.flow_diagrams import plot_flow as plot_flow
    from clvq_lens.plots.interventions import plot_ablations as plot_ablations
    from clvq_lens.plots.interventions import (
        plot_ablations_by_position as plot_ablations_by_position,
    )
    from clvq_lens.plots.interventions import plot_attribution as plot_attribution
    from clvq_lens.plots.interventions import plot_patching as plot_patching
    from clvq_lens.plots.layer_panels import plot_collapse as plot_collapse
    from clvq_lens.plots.norm_histograms import plot_norms as plot_norms
    from clvq_lens.plots.probing_points import plot_probing as plot_probing
    from clvq_lens.plots.removal_effects import plot_faithfulness as plot_faithfulness
    from clvq_lens.plots.salient_text import plot_salience as plot_salience
    from clvq_lens.plots.sentence_grid import plot_sentence as plot_sentence
    from clvq_lens.plots.settings import plot_settings as plot_settings
    from clvq_lens.plots.stability_points import plot_stability as plot_stability
    from clvq_lens.plots.strip import plot_token_strip as plot_token_strip
    from clvq_lens.plots.training import plot_history as plot_history

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "alignment_panels": ["plot_alignment"],
        "codebook_map": ["plot_codebook"],
        "layer_panels": ["plot_collapse"],
        "colors": ["code_colors"],
        "evaluation_bars": ["plot_evaluations"],
        "concepts": ["plot_concepts", "plot_usage"],
        "concordance_points": ["plot_concordance"],
        "detection_points": ["plot_detection"],
        "evaluation_panels": ["plot_cross_entropy", "plot_recovery"],
        "removal_effects": ["plot_faithfulness"],
        "flow_diagrams": ["plot_causal_flow", "plot_flow"],
        "interventions": [
            "plot_ablations",
            "plot_ablations_by_position",
            "plot_attribution",
            "plot_patching",
        ],
        "comparison_panels": ["plot_comparison"],
        "norm_histograms": ["plot_norms"],
        "probing_points": ["plot_probing"],
        "salient_text": ["plot_salience"],
        "sentence_grid": ["plot_sentence"],
        "stability_points": ["plot_stability"],
        "settings": ["plot_settings"],
        "strip": ["plot_token_strip"],
        "training": ["plot_history"],
    },
)
