"""The tokens of some texts as strings, for tables and pictures."""

from clvq_lens.data.tokens import TokenBatch
from clvq_lens.host.host import Host

_DIFFERENT = "\u2026"  # where texts have different tokens


def strings_of_texts(batch: TokenBatch, host: Host) -> list[list[str]]:
    """The tokens of each text as they are shown, without padding."""
    strings = []
    for tokens, attended in zip(batch.tokens, batch.attended, strict=True):
        strings.append(host.vocabulary.displayed(tokens[attended]))
    return strings


def strings_at_positions(batch: TokenBatch, host: Host) -> tuple[str, ...]:
    """The token at each position if all texts agree on it, else an ellipsis."""
    texts = strings_of_texts(batch, host)
    strings = []
    for position in range(batch.tokens.shape[1]):
        # Texts that have ended by then have no say.
        tokens = {text[position] for text in texts if position < len(text)}
        strings.append(tokens.pop() if len(tokens) == 1 else _DIFFERENT)
    return tuple(strings)
