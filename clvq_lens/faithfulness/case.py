"""A case: texts with classes and all that does not depend on codes, so that many can be judged."""

from dataclasses import dataclass
from typing import get_args

import numpy as np

from clvq_lens.arguments import check_choice, check_count, check_is, check_seed
from clvq_lens.data.tokens import check_long_texts
from clvq_lens.faithfulness.classified_texts import ClassifiedTexts
from clvq_lens.faithfulness.folds import Fold, ProtocolName, make_folds
from clvq_lens.faithfulness.probes import LinearProbe, MLPProbe, linear_probes, published_probes
from clvq_lens.faithfulness.readers import Reader, probe_readers
from clvq_lens.faithfulness.salient import Salient, find_salient
from clvq_lens.faithfulness.tokenized_texts import SentenceVectors, TokenizedTexts, read_vectors
from clvq_lens.host.host import Host
from clvq_lens.readouts.readout import Readout, Sentence
from clvq_lens.readouts.salience import Cut


@dataclass(frozen=True, kw_only=True)
class CaseOptions:
    """How texts are read and probed; see `clvq_lens.Lens.faithfulness`, which names them all.

    Raises:
        ConfigError: If there is no such protocol, or an option has an impossible value.
    """

    protocol: ProtocolName = "honest"
    readout: Readout | None = None
    sentence: Sentence | None = None
    n_folds: int | None = None
    n_steps: int | None = None
    long_texts: Cut = "error"
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("protocol", self.protocol, get_args(ProtocolName))
        how = "Pass clvq_lens.head(...) or answers(...)."
        check_is("readout", self.readout, Readout | None, how)
        if self.sentence is not None:
            check_choice("sentence", self.sentence, get_args(Sentence))
        if self.n_folds is not None:
            check_count("n_folds", self.n_folds, least=2)
        if self.n_steps is not None:
            check_count("n_steps", self.n_steps)
        check_long_texts(self.long_texts, splittable=False)
        check_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Texts with classes, their vectors at a hook point, probes of them, and their salient tokens.

    Attributes:
        source: The hook point.
        protocol: "honest" or "paper".
        texts: Texts, classes and documents.
        tokens: The texts as rows of tokens.
        sentence: How a text becomes one vector.
        vectors: The vectors.
        folds: Folds of the cross-validation.
        probes: One for each fold, fitted on vectors at the source.
        readers: Who reads which texts in the model.
        salient: The most salient token of each text.
    """

    source: str
    protocol: ProtocolName
    texts: ClassifiedTexts
    tokens: TokenizedTexts
    sentence: Sentence
    vectors: SentenceVectors
    folds: list[Fold]
    probes: list[LinearProbe] | list[MLPProbe]
    readers: list[Reader]
    salient: Salient


def prepare(
    host: Host, source: str, texts: ClassifiedTexts, options: CaseOptions, *, progress: bool = True
) -> Case:
    """Reads the texts, fits probes, and finds salient tokens.

    Args:
        host: The model.
        source: The hook point whose codes are to be tested.
        texts: The texts with their classes.
        options: How texts are read and probed.
        progress: Whether to show progress bars.

    Raises:
        DataError: If classes and readout do not fit together, or a class has too few documents.
        EmptyCorpusError: If a text holds no real token.
        TextTooLongError: If a text is longer than the context and long texts are an error.
    """
    # The first token of a causal model sees no other, so it says nothing about its text.
    sentence = options.sentence or ("last" if host.causal else "cls")
    # Before anything takes long: a class may have too few documents.
    folds = make_folds(texts, options.protocol, n_folds=options.n_folds, seed=options.seed)
    tokens = TokenizedTexts(host, texts.texts, options.long_texts)
    vectors = read_vectors(tokens, source, sentence, progress=progress)
    if options.readout is not None:
        readers = [Reader(np.arange(len(texts)), options.readout)]
    else:
        readers = probe_readers(
            host, vectors.last, texts, folds, sentence=sentence, seed=options.seed
        )
    salient = find_salient(
        tokens, texts, source, readers, n_steps=options.n_steps, progress=progress
    )
    fit_probes = published_probes if options.protocol == "paper" else linear_probes
    return Case(
        source=source,
        protocol=options.protocol,
        texts=texts,
        tokens=tokens,
        sentence=sentence,
        vectors=vectors,
        folds=folds,
        probes=fit_probes(vectors.source, texts, folds, seed=options.seed),
        readers=readers,
        salient=salient,
    )
