"""The contents of a page as plain data: what JSON can hold, and nothing else."""

import re

from clvq_lens.concepts.concept import READ_OUT_FROM
from clvq_lens.page.code_entry import code_entry
from clvq_lens.page.contents import Contents, ModelFacts
from clvq_lens.page.figures import figures
from clvq_lens.page.flow_entry import flow_entry
from clvq_lens.page.numbers import evaluation_entry, settings, tiles
from clvq_lens.page.plain import rounded
from clvq_lens.page.texts import layer_entry, names_of_codes, text_entries


def payload(contents: Contents) -> dict[str, object]:
    """Everything that the scripts of the page draw from; the same contents give the same data.

    Args:
        contents: The contents of the page.
    """
    quantizer, table = contents.quantizer, contents.concepts
    origin = quantizer.origin
    source, target = (origin.source, origin.target) if origin else ("", "")
    names = names_of_codes(contents)
    texts = text_entries(contents.layers)
    return {
        "title": f"{contents.model.name}: concepts from {source} to {target}",
        "model": f"{_architecture(contents.model)} \u00b7 {_size(contents.model.n_parameters)}",
        "about_model": _about(contents.model),
        "name": contents.name,
        "source": source,
        "target": target,
        "memory": quantizer.config.decoder_memory,
        "n_tokens": table.n_tokens,
        "token_entropy": rounded(table.token_entropy),
        "position_entropy": rounded(table.position_entropy),
        "colors": list(contents.flow.colors[contents.name]),
        "read_out_from": READ_OUT_FROM,
        "tiles": tiles(contents.evaluation),
        "codes": [code_entry(concept) for concept in table],
        "layers": [layer_entry(layer, contents, names) for layer in contents.layers],
        "texts": texts,
        "figures": figures(contents, names),
        "flow": flow_entry(contents, names),
        "evaluation": evaluation_entry(contents),
        "settings": settings(contents, len(texts)),
    }


def _architecture(model: ModelFacts) -> str:
    """The architecture without the ending that all language models share, such as "Llama"."""
    return re.sub(r"(ForCausalLM|ForMaskedLM|LMHeadModel)$", "", model.kind) or model.kind


def _size(n_parameters: int) -> str:
    """A number of parameters as people say it: 260K, 135M, 6.9B."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if n_parameters >= unit:
            n = n_parameters / unit
            return f"{n:.1f}{letter}" if n < 10 else f"{n:.0f}{letter}"
    return str(n_parameters)


def _about(model: ModelFacts) -> str:
    return (
        f"{model.kind} from {model.name}: {model.n_parameters:,} parameters, {model.n_layers} "
        f"blocks of width {model.d_model:,}, {model.d_vocab:,} tokens in the vocabulary"
    )
