"""The concept table: what every code means, to look up, to name, to sort and to keep."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clvq_lens.arguments import check_flags, check_is
from clvq_lens.concepts.asking import Namer, NamesMany, ask_for_names
from clvq_lens.concepts.concept import Concept, Counted, Example, TokenLogit, name_from
from clvq_lens.concepts.kept_back import shown_examples
from clvq_lens.concepts.neuronpedia import write_neuronpedia
from clvq_lens.errors import CodeRangeError
from clvq_lens.plots.concepts import plot_usage
from clvq_lens.showing import Shown
from clvq_lens.stats.agreement import Agreement
from clvq_lens.writing import write_atomically

_IN_FRAME = 5  # tokens named in a cell


@dataclass(frozen=True, repr=False)
class ConceptTable(Shown):
    """The concepts of a codebook in some data; ``table[17]`` is code 17.

    Attributes:
        concepts: One for every code, unused ones included.
        n_tokens: Real tokens read.
        token_entropy: Entropy of all tokens, in nats: the baseline of a code's own.
        position_entropy: Entropy of the positions of all tokens, in nats.
        agreement: How well codes agree with the token labels; None if none were given.
        token_identity: How well token ids agree with those labels: the baseline.
        complete: Whether all of the data were read; False after Ctrl-C.
    """

    concepts: tuple[Concept, ...]
    n_tokens: int
    token_entropy: float
    position_entropy: float
    agreement: Agreement | None = None
    token_identity: Agreement | None = None
    complete: bool = True

    def __getitem__(self, code: int) -> Concept:
        check_is("The code", code, int | np.integer, "Pass a whole number.")
        if not 0 <= code < len(self.concepts):
            raise CodeRangeError(f"There is no code {code}. Pass one from 0 to {len(self) - 1}.")
        return self.concepts[code]

    def __len__(self) -> int:
        return len(self.concepts)

    def __iter__(self) -> Iterator[Concept]:
        return iter(self.concepts)

    def headline(self) -> str:
        """How many codes are in use, and on how many tokens."""
        n_used = sum(concept.usage > 0 for concept in self)
        interrupted = "" if self.complete else ", interrupted"
        return f"{n_used} of {len(self)} codes in use, {self.n_tokens:,} tokens{interrupted}"

    def preview(self) -> pd.DataFrame:
        """The most used codes."""
        return self.frame()

    def frame(self) -> pd.DataFrame:
        """One row for each code, the most used first.

        ``promotes`` is empty for a code of fewer than ten tokens: the mean of so few says little.
        """
        frame = pd.DataFrame([_row(concept) for concept in self])
        if self.agreement is None:
            frame = frame.drop(columns=["top_label", "top_label_share"])
        # Stable: of equally used codes the lowest comes first, as in every other table.
        return frame.sort_values("usage", ascending=False, kind="stable").reset_index(drop=True)

    def names(self) -> dict[int, str]:
        """A short name for every code: the one it was given, or else its commonest tokens."""
        return {concept.code: concept.title for concept in self}

    def named(
        self, name: Namer | NamesMany | None = None, *, progress: bool = True
    ) -> "ConceptTable":
        """The same table with a name for every code in use.

        Args:
            name: A language model (`clvq_lens.judges`), or a function of examples of a code that
                names it. It sees the typical and random examples from one half of the documents:
                the other half is kept back for `clvq_lens.detection`. A code with no example in
                the half that is shown is named as with None. None: the most distinctive tokens of
                the code. No text leaves the machine unless a model is passed that it is sent to.
            progress: Whether to show progress bars.

        Raises:
            ConfigError: If ``name`` is something else.
            DataError: If a name has half a character.
            JudgeError: If a server that was passed does not answer.

        Example:
            >>> table.named(lambda examples: examples[0].token)[17].name  # doctest: +SKIP
        """
        check_flags(progress=progress)
        remedy = "Pass a function of examples, or a judge of clvq_lens.judges."
        check_is("name", name, Callable | NamesMany | None, remedy)
        given = {} if name is None else self._asked_of(name, progress=progress)
        concepts: list[Concept] = []
        for concept in self:
            if concept.usage == 0:
                concepts.append(concept)  # there is nothing to name
            elif concept.code in given:
                concepts.append(concept.named(given[concept.code]))
            else:
                concepts.append(concept.named(distinctive_tokens(concept)))
        return replace(self, concepts=tuple(concepts))

    def _asked_of(self, name: Namer | NamesMany, *, progress: bool) -> dict[int, str]:
        """The names of codes of which examples may be shown, all asked for at once."""
        shown: dict[int, tuple[Example, ...]] = {}
        for concept in self:
            examples = shown_examples(concept)
            if concept.usage > 0 and examples:
                shown[concept.code] = examples
        names = ask_for_names(name, list(shown.values()), progress=progress)
        return dict(zip(shown, names, strict=True))

    def plot(self) -> go.Figure:
        """The usage curve: the share of every code, the most used first, beside uniform use."""
        return plot_usage(np.array([concept.usage for concept in self]))

    def to_parquet(self, path: str | Path) -> Path:
        """Writes everything, one row for each code, with examples and tokens as nested columns.

        Args:
            path: Where to write; `pandas.read_parquet` reads it. An existing file is replaced.

        Raises:
            PathError: If nothing can be written there.
        """
        path = Path(path)
        table = pd.DataFrame([asdict(concept) for concept in self])
        write_atomically(path, table.to_parquet(index=False))
        return path

    def to_neuronpedia(self, folder: str | Path, *, model_id: str, source: str) -> list[Path]:
        """Writes the table as Neuronpedia takes it, in the format of its library's version 1.2.1.

        Each file is the body of one request to ``feature/upload-batch``, with 128 codes at most:
        how often a code is used, the tokens that it promotes and suppresses, its name if it has
        one, and its examples. Create model and source set there first; nothing is sent from here::

            requests = neuronpedia.requests.feature_request.FeatureRequest()
            for path in paths:
                body = json.loads(path.read_text())
                requests.send_request(method="POST", uri="upload-batch", json=body)

        In an example, the token that has the code shows how near it is to its code vector,
        1 / (1 + squared distance in units of the mean), and of features 1 + activation. All others
        show 0, whether they have the code or not. A table knows contexts as text, so what counts as
        tokens around it are words.

        Args:
            folder: Where to write; created if needed.
            model_id: What Neuronpedia calls the model, such as "gpt2-small".
            source: What it calls these codes: a layer, a hyphen and the name of the source set,
                such as "8-clvq-400".

        Returns:
            The files, in their order.

        Raises:
            ConfigError: If Neuronpedia could not have such a name.
            PathTakenError: If the folder holds files of another table.
            PathError: If nothing can be written there.
        """
        return write_neuronpedia(self.concepts, folder, model_id=model_id, source=source)


def distinctive_tokens(concept: Concept) -> str:
    """A name for a concept: its tokens of the highest lift, or else the commonest ones."""
    return name_from(concept.distinctive or concept.tokens)


def _row(concept: Concept) -> dict[str, object]:
    """What the frame says of a code."""
    examples = (*concept.typical, *concept.random)
    promoted = concept.read_out.promoted if concept.read_out else ()
    top_label = concept.token_labels[0] if concept.token_labels else None
    return {
        "code": concept.code,
        "name": concept.name,
        "usage": concept.usage,
        "share": concept.share,
        "tokens": _token_cell(concept.tokens),
        "distinctive": _token_cell(concept.distinctive),
        "promotes": _logit_cell(promoted),
        "token_entropy": concept.token_entropy,
        "position_entropy": concept.position_entropy,
        "top_label": top_label.text if top_label else "",
        "top_label_share": top_label.share if top_label else float("nan"),
        "example": str(examples[0]) if examples else "",
    }


def _token_cell(tokens: Sequence[Counted]) -> str:
    return " ".join(token.text for token in tokens[:_IN_FRAME])


def _logit_cell(logits: Sequence[TokenLogit]) -> str:
    return " ".join(logit.token for logit in logits[:_IN_FRAME])
