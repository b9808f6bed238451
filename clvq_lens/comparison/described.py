"""The metrics that methods are compared by: their order, their titles, and what values mean."""

from typing import NamedTuple

from clvq_lens.baselines.clusterings import OF_THE_TARGET


class Described(NamedTuple):
    """How tables and figures present a metric.

    Attributes:
        title: Its name.
        meaning: What its values mean.
    """

    title: str
    meaning: str


# The order is that of the columns of tables and of the panels of figures.
METRICS = {
    "fvu": Described("FVU", "0 perfect, 1 the mean"),
    "ce_loss_recovered": Described("CE loss recovered", "1 no loss, 0 the mean"),
    "kl": Described("KL", "nats per token; 0 the model as it is"),
    "readout_kl": Described("KL of the readout", "nats per text; 0 the model as it is"),
    "perplexity": Described("perplexity", "codes in use"),
    "n_dead_codes": Described("dead codes", "codes that no token chose"),
    "ami": Described("AMI with labels", "0 chance, 1 the same"),
    "nmi": Described("NMI with labels", "0 independent, 1 the same"),
    "nmi_shuffled": Described("NMI, labels shuffled", "what so many codes have by chance"),
    "purity": Described("purity", "tokens with their code's label"),
    "purity_shuffled": Described("purity, labels shuffled", "what so many codes have by chance"),
    "ami_ambiguous": Described("AMI, ambiguous tokens", "0 chance, 1 the same"),
    "nmi_ambiguous": Described("NMI, ambiguous tokens", "0 independent, 1 the same"),
    "nmi_ambiguous_shuffled": Described("NMI, ambiguous, shuffled", "labels shuffled: by chance"),
    "purity_ambiguous": Described("purity, ambiguous tokens", "tokens with their code's label"),
    "purity_ambiguous_shuffled": Described(
        "purity, ambiguous, shuffled", "labels shuffled: by chance"
    ),
    "n_salient_codes": Described("salient codes", "few of them make intervals wide"),
    "published_accuracy": Described("published: probe accuracy", "nothing removed"),
    "published_removed": Described("published: raw code out", "accuracy; classes may flip"),
    "retrained": Described("raw code out, probe retrained", "accuracy: what information is left"),
    "probe_drop": Described("drop in the probe", "probability; centered code out"),
    "probe_drop_specific": Described("specific drop, probe", "over the closest control"),
    "model_drop": Described("drop in the model", "probability; centered code out"),
    "model_drop_specific": Described("specific drop, model", "over the closest control"),
    "code_drop": Described("drop, code ablated", "probability, in the model"),
    "code_drop_specific": Described("specific drop, code ablated", "over another code of the text"),
    "stability": Described("stability (AMI)", "0 chance, 1 the same codes"),
}

UNQUANTIZED = "unquantized prediction"
"""The row of what a predictive encoder gives before a code is chosen."""
NO_DECODER = "none"
"""What takes the place of a decoder where predictions are not quantized."""
BOUNDS = ("random codes", OF_THE_TARGET, UNQUANTIZED)
"""Rows that are no methods: what chance gives, and what no codes of the source can get beyond."""
