"""Lens: what ``add_clvq`` returns. It names the verbs; the work is done in the rooms below."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from clvq_lens.concepts.encoding import Encoding, encode
from clvq_lens.concepts.survey import concept_table
from clvq_lens.concepts.table import ConceptTable
from clvq_lens.config import CLVQConfig, FitConfig, LongTexts
from clvq_lens.errors import ConfigError, HostMismatchError, NameTakenError
from clvq_lens.evaluation.evaluate import evaluate
from clvq_lens.evaluation.labels import TokenLabels
from clvq_lens.evaluation.report import Report
from clvq_lens.host.attach import Attachment, forget_lens, lenses_of, remember_lens
from clvq_lens.host.protocol import Host
from clvq_lens.interventions.directions import Place, projection
from clvq_lens.interventions.edits import (
    CodeFunction,
    Codes,
    Edit,
    apply_edits,
    as_edits,
    code_numbers,
)
from clvq_lens.interventions.positions import At
from clvq_lens.page.contents import gather
from clvq_lens.page.write import check_path, write_page
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.files import save
from clvq_lens.training.documents import Data
from clvq_lens.training.fit import fit
from clvq_lens.training.history import History


def add_clvq(
    model: Any,
    source: int | str | None = None,
    target: int | str | None = None,
    *,
    name: str | None = None,
    config: CLVQConfig | None = None,
    quantizer: CrossLayerQuantizer | None = None,
    **options: Any,
) -> "Lens":
    """Attaches a quantizer between two layers of a model; the model computes the same as before.

    Args:
        model: A TransformerLens `HookedTransformer`.
        source: Where to read: a layer number for the residual stream after that block, or the
            name of a hook point.
        target: Where to reconstruct, later than the source.
        name: Of its hook points, ``clvq.<name>.hook_codes`` and so on; None: such as "4-8".
        config: The quantizer's options; None: the defaults.
        quantizer: A fitted quantizer, from `clvq_lens.load`, instead of a new one. Source, target
            and name are then its own.
        **options: Options of `CLVQConfig` by name.

    Returns:
        The lens, with the verbs: fit, encode, evaluate, concepts, report, edit, project_out,
        splice, save, remove.

    Raises:
        HookNotFoundError: If a layer or hook point does not exist.
        LayerOrderError: If the target lies before the source.
        NameTakenError: If the model has a quantizer of that name.
        ConfigError: If an option does not exist or is impossible.
        HostMismatchError: If ``quantizer`` was fitted on another model.

    Example:
        >>> lens = model.add_clvq(source=4, target=8, n_codes=400)  # doctest: +SKIP
    """
    host = Host(model)
    if quantizer is not None:
        if source is not None or target is not None or config is not None or options:
            raise ConfigError(
                "A fitted quantizer brings its own source, target and options. "
                "Pass quantizer=... and at most a name, or leave it out and fit a new one."
            )
        return _attach(host, quantizer, name)
    if source is None or target is None:
        raise ConfigError("Pass both source=... and target=..., or quantizer=load(folder).")
    resolved = host.resolve(source), host.resolve(target)
    host.check_order(*resolved)
    widths = host.width(resolved[0]), host.width(resolved[1])
    config = (config or CLVQConfig()).replace(**options)
    quantizer = CrossLayerQuantizer(config, *widths, causal=host.causal)
    name = name or f"{source}-{target}"
    quantizer.origin = host.origin(*resolved, name)
    return _attach(host, quantizer, name)


def _attach(host: Host, quantizer: CrossLayerQuantizer, name: str | None) -> "Lens":
    origin = quantizer.origin
    if origin is None:
        raise HostMismatchError(
            "This quantizer does not say which model it belongs to. Create it with "
            "model.add_clvq(source, target), which records that."
        )
    name = name or origin.name
    if name in lenses_of(host.model):
        raise NameTakenError(
            f"This model already has a quantizer named {name!r}. Remove it with "
            f"model.clvqs[{name!r}].remove(), or pass another name=...."
        )
    here = host.origin(host.resolve(origin.source), host.resolve(origin.target), name)
    differences = origin.differences(here)
    if differences:
        raise HostMismatchError(
            f"The quantizer was fitted on another model: {'; '.join(differences)}. Load the model "
            f"that it was fitted on, with the same dtype and weight processing, or fit a new one."
        )
    quantizer.to(host.device)
    lens = Lens(Attachment(host, quantizer, name, origin.source, origin.target))
    remember_lens(host.model, name, lens)
    return lens


class Lens:
    """A quantizer on a model: fit it, read its concepts, test them, keep it.

    Args:
        attachment: From `add_clvq`.
    """

    def __init__(self, attachment: Attachment) -> None:
        self.attachment = attachment
        self.host = attachment.host
        self.quantizer = attachment.quantizer

    def __repr__(self) -> str:
        state = "fitted" if self.quantizer.fitted else "not fitted"
        state += "" if self.attachment.attached else ", removed"
        n_codes = self.quantizer.config.n_codes
        return f"Lens({self.name!r}: {self.source} -> {self.target}, {n_codes} codes, {state})"

    @property
    def name(self) -> str:
        """Its name on the model."""
        return self.attachment.name

    @property
    def source(self) -> str:
        """The hook point that is read."""
        return self.attachment.source

    @property
    def target(self) -> str:
        """The hook point that is reconstructed."""
        return self.attachment.target

    @property
    def model(self) -> Any:
        """The model that it is attached to."""
        return self.host.model

    @property
    def config(self) -> CLVQConfig:
        """The quantizer's options."""
        return self.quantizer.config

    def fit(
        self, data: Data, config: FitConfig | None = None, *, progress: bool = True, **options: Any
    ) -> History:
        """Fits the quantizer on activations streamed from the model.

        Starts anew when called again. Interrupted with Ctrl-C, it keeps what was learned; after
        any other error the quantizer is what it was before.

        Args:
            data: Texts, a tensor of tokens, a path to a .txt or .jsonl file, or a Hugging Face
                dataset.
            config: How to fit; None: the defaults.
            progress: Whether to show a progress bar.
            **options: Options of `FitConfig` by name.

        Returns:
            Losses and validation over time, with ``.frame()`` and ``.plot()``.

        Raises:
            EmptyCorpusError: If the data hold no real token.
            TooFewTokensError: If they hold fewer distinct tokens than there are codes.
            TextTooLongError: If a text is longer than the model's context.
            NonFiniteError: If activations hold NaN or infinity.
        """
        self.attachment.require_attached()
        config = (config or FitConfig()).replace(**options)
        return fit(self.host, self.quantizer, self.source, self.target, data, config, progress)

    def encode(self, data: Data, *, long_texts: LongTexts = "error") -> Encoding:
        """The code of every token, with tokens and mask, for texts that fit in memory."""
        self.quantizer.require_fitted()
        self.attachment.require_attached()
        return encode(self.host, self.quantizer, self.source, data, long_texts=long_texts)

    def evaluate(self, data: Data, *, progress: bool = True, **options: Any) -> Report:
        """How well the codes stand for the target, on held-out data.

        Args:
            data: Documents, as for `fit`, but not the same ones.
            progress: Whether to show a progress bar.
            **options: ``labels`` (the true concept of every real token, to add concept
                recovery), ``long_texts``, ``n_replicates`` of the bootstrap and ``seed``.

        Returns:
            Reconstruction, reliance on codes and effect in the model, each beside its baseline
            and with an interval over documents.
        """
        self.quantizer.require_fitted()
        self.attachment.require_attached()
        return evaluate(
            self.host, self.quantizer, self.source, self.target, data, progress=progress, **options
        )

    def concepts(
        self,
        data: Data,
        *,
        n_examples: int = 20,
        labels: TokenLabels | None = None,
        long_texts: LongTexts = "error",
        seed: int = 0,
        progress: bool = True,
    ) -> ConceptTable:
        """What each code means in some data: one pass over any amount of text.

        Args:
            data: Documents, as for `fit`.
            n_examples: Contexts of each kind (typical, borderline, random) for each code.
            labels: A known label of every real token of every document, such as its part of
                speech, to compare codes with; `clvq_lens.token_labels` makes them from words.
            long_texts: What to do with a text beyond the context.
            seed: Of the random examples and of the shuffled labels.
            progress: Whether to show a progress bar.

        Returns:
            For each code its tokens, contexts, promoted tokens and neighbours; ``table[17]`` is
            code 17.

        Raises:
            NotFittedError: If the quantizer has not been fitted.
            EmptyCorpusError: If the data hold no real token.
            DataError: If labels do not match the tokens.
        """
        self.quantizer.require_fitted()
        self.attachment.require_attached()
        return concept_table(
            self.host,
            self.quantizer,
            self.source,
            data,
            n_examples=n_examples,
            labels=labels,
            long_texts=long_texts,
            seed=seed,
            progress=progress,
        )

    def report(
        self,
        data: Data,
        path: str | Path,
        *,
        labels: TokenLabels | None = None,
        n_examples: int = 20,
        n_texts: int = 100,
        concepts: ConceptTable | None = None,
        history: History | None = None,
        long_texts: LongTexts = "error",
        progress: bool = True,
    ) -> Path:
        """Writes one self-contained page, which opens from disk without a network.

        Every concept, the flow through all quantizers of the model, texts token by token,
        evaluation and settings; ``labels``, ``n_examples`` and ``long_texts`` as for `concepts`.

        Args:
            data: Held-out texts or tokens, as for `fit`.
            path: Of the .html file, in a folder that exists.
            labels: Of every real token.
            n_examples: Example contexts of each kind for each code.
            n_texts: Texts that can be read on the page, the first ones.
            concepts: The table, if it was made before, such as one with names.
            history: From `fit`.
            long_texts: What to do with a text beyond the context.
            progress: Whether to show progress bars.

        Raises:
            NotFittedError: If a quantizer of the model has not been fitted.
            PathError: If nothing can be written at the path.
        """
        self.quantizer.require_fitted()
        self.attachment.require_attached()
        path = check_path(path)  # before anything that takes long
        contents = gather(
            self.model,
            self.name,
            data,
            labels=labels,
            n_examples=n_examples,
            n_texts=n_texts,
            concepts=concepts,
            history=history,
            long_texts=long_texts,
            progress=progress,
        )
        return write_page(path, contents)

    @contextmanager
    def splice(self) -> Iterator["Lens"]:
        """While open, the target is replaced by the reconstruction at every real token.

        Raises:
            SpliceConflictError: If another lens replaces the same target.

        Example:
            >>> with lens.splice():  # doctest: +SKIP
            ...     loss = model(tokens, return_type="loss")
        """
        self.quantizer.require_fitted()
        with self.attachment.spliced():
            yield self

    @contextmanager
    def edit(self, *edits: Edit | CodeFunction, error_term: bool = True) -> Iterator["Lens"]:
        """While open, codes are edited in the running model, in the order given.

        The target moves by the difference that the edits make to the reconstruction, so an edit
        that changes no code changes no bit. Blocks nest: an inner one edits what an outer one
        left. Edits act on real tokens; ``at`` of an edit names other positions.

        Args:
            *edits: `Ablate`, `Swap`, `Force`, `Restrict`, `Patch`, `Steer`, or functions of
                ``(codes, tokens)`` that return codes.
            error_term: Whether the target keeps what the codes do not explain; False: it is
                replaced by the edited reconstruction, as in `splice`.

        Raises:
            NotFittedError: If the quantizer has not been fitted.
            CodeRangeError: If an edit names a code that does not exist.
            SpliceConflictError: If another lens replaces the same target.

        Example:
            >>> with lens.edit(Ablate(17), Force(3, at=-1)):  # doctest: +SKIP
            ...     logits = model(tokens)
        """
        self.quantizer.require_fitted()
        self.attachment.require_attached()
        edit = partial(apply_edits, as_edits(edits, self.quantizer), self.quantizer)
        splice = nullcontext() if error_term else self.attachment.spliced()
        with splice, self.attachment.edited(edit):
            yield self

    @contextmanager
    def project_out(
        self,
        codes: Codes,
        *,
        at: Place = "target",
        centered: bool = True,
        positions: At = None,
    ) -> Iterator["Lens"]:
        """While open, the span of some code vectors is missing from the residual stream.

        Args:
            codes: A code, or several.
            at: "source": code vectors, taken out where they are read. "target": the mean targets
                of the codes, taken out where they are reconstructed.
            centered: Whether the mean is taken off first and stays as it is. False: raw vectors,
                as published, whose large common mean goes too.
            positions: Where; None: every real token.

        Raises:
            NotFittedError: If the quantizer has not been fitted.
            CodeRangeError: If a code does not exist, or has no mean target.
        """
        self.quantizer.require_fitted()
        self.attachment.require_attached()
        named = code_numbers(codes, self.quantizer)
        project = projection(named, at, self.quantizer, centered=centered, positions=positions)
        with self.attachment.projected(self.source if at == "source" else self.target, project):
            yield self

    def save(self, folder: str | Path) -> Path:
        """Writes the quantizer to a folder; `clvq_lens.load` reads it."""
        return save(self.quantizer, folder)

    def remove(self) -> None:
        """Takes the quantizer off the model, which is then as it was found."""
        self.attachment.detach()
        if lenses_of(self.model).get(self.name) is self:
            forget_lens(self.model, self.name)


def clvqs(model: Any) -> Mapping[str, Lens]:
    """The lenses on a model, by name; the same as ``model.clvqs``."""
    return MappingProxyType(lenses_of(model))
