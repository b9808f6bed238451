"""The texts of a page and the codes of their tokens, as plain data."""

from collections import Counter
from collections.abc import Mapping, Sequence

from clvq_lens.page.contents import Contents, Layer
from clvq_lens.page.plain import with_text_keys
from clvq_lens.plots.text import spelled

_N_NAME_TOKENS = 3  # commonest tokens that name a code of another quantizer

Names = Mapping[str, Mapping[int, str]]
"""Names of the codes of each quantizer, by the name of the quantizer."""


def names_of_codes(contents: Contents) -> Names:
    """Names for the codes of all quantizers.

    Args:
        contents: The contents of the page.
    """
    names = {}
    for layer in contents.layers:
        if layer.name == contents.name:
            names[layer.name] = contents.concepts.names()
        else:
            # A page holds the concepts of one quantizer only.
            names[layer.name] = commonest_tokens(layer)
    return names


def commonest_tokens(layer: Layer) -> dict[int, str]:
    """A short name for each code of a quantizer: its commonest tokens in the texts of the page.

    Args:
        layer: The quantizer.
    """
    counts: dict[int, Counter[str]] = {}
    for row, strings in enumerate(layer.encoding.strings):
        # Codes are padded on the right, strings are not.
        for code, string in zip(layer.encoding.codes[row].tolist(), strings, strict=False):
            if code >= 0:
                counts.setdefault(code, Counter())[string] += 1
    names = {}
    for code, tokens in sorted(counts.items()):
        commonest = tokens.most_common(_N_NAME_TOKENS)
        names[code] = " ".join(spelled(token) for token, _ in commonest)
    return names


def layer_entry(layer: Layer, contents: Contents, names: Names) -> dict[str, object]:
    """One of the quantizers among which a reader of a text chooses.

    Args:
        layer: The quantizer.
        contents: The contents of the page.
        names: Names of the codes of each quantizer.
    """
    if layer.name == contents.name:
        # The entries of its codes have their titles and colors already.
        return {"name": layer.name, "own": True, "names": {}, "colors": []}
    return {
        "name": layer.name,
        "own": False,
        "names": with_text_keys(names[layer.name]),
        "colors": list(contents.flow.colors[layer.name]),
    }


def text_entries(layers: Sequence[Layer]) -> list[dict[str, object]]:
    """Each document with its pieces: tokens, and their codes in every layer.

    The code is -1 at special tokens.

    Args:
        layers: All quantizers, with the codes of the same texts.
    """
    first = layers[0].encoding
    pieces_by_document: dict[int, list[dict[str, object]]] = {}
    for row, document in enumerate(first.documents):
        tokens = list(first.strings[row])
        codes = []
        for layer in layers:
            codes.append(layer.encoding.codes[row, : len(tokens)].tolist())
        piece = {"tokens": tokens, "codes": codes, "text": first.texts[row].strip()}
        pieces_by_document.setdefault(document, []).append(piece)
    entries = []
    for document, pieces in pieces_by_document.items():
        entries.append({"document": document, "pieces": pieces})
    return entries
