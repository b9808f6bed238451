"""Lens: what ``add_clvq`` returns. It names the verbs; the work is done in the rooms below."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from clvq_lens.arguments import check_is
from clvq_lens.baselines.choice import Baseline
from clvq_lens.baselines.fit import attach_baseline
from clvq_lens.concepts.encoding import Encoding, encode
from clvq_lens.concepts.survey import concept_table
from clvq_lens.concepts.table import ConceptTable
from clvq_lens.config import FitConfig, LongTexts
from clvq_lens.editing import EditableLens
from clvq_lens.evaluation.evaluate import evaluate
from clvq_lens.evaluation.labels import TokenLabels
from clvq_lens.evaluation.report import Report
from clvq_lens.faithfulness.protocols import faithfulness
from clvq_lens.faithfulness.result import Faithfulness
from clvq_lens.host.attach import remember_lens
from clvq_lens.host.modes import require_gradients
from clvq_lens.hub.push import push
from clvq_lens.page.contents import gather
from clvq_lens.page.write import check_path, write_page
from clvq_lens.plots.codebook import Method, plot_codebook
from clvq_lens.quantizer.files import save
from clvq_lens.training.documents import Data
from clvq_lens.training.fit import fit
from clvq_lens.training.history import History


class Lens(EditableLens):
    """A quantizer on a model: fit it, read its concepts, test them, keep it.

    Args:
        attachment: From `add_clvq`.
    """

    def fit(
        self, data: Data, config: FitConfig | None = None, *, progress: bool = True, **options: Any
    ) -> History:
        """Fits the quantizer on activations streamed from the model.

        Starts anew when called again. Interrupted with Ctrl-C, it keeps what was learned; after
        any other error the quantizer is what it was before.

        Args:
            data: Texts, a path to a .txt or .jsonl file, or a Hugging Face dataset; a tensor of
                tokens [row, pos], padded left or right; or what a tokenizer returns, with its mask.
                Texts longer than the context are split unless ``long_texts`` says otherwise.
            config: How to fit; None: the defaults.
            progress: Whether to show a progress bar.
            **options: Options of `FitConfig` by name.

        Returns:
            Losses and validation over time, with ``.frame()`` and ``.plot()``.

        Raises:
            EmptyCorpusError: If the data hold no real token.
            TooFewTokensError: If they hold fewer distinct tokens than there are codes.
            TextTooLongError: If a text is longer than the context and ``long_texts`` is "error".
            NonFiniteError: If activations hold NaN or infinity.
            OpenBlockError: Inside a block of this lens, such as an edit.
            ModeError: Under ``torch.inference_mode()``.
        """
        self.attachment.require_attached()
        self.attachment.require_closed("fit")
        require_gradients("A fit")
        _check_config(config)
        config = (config or FitConfig()).replace(**options)
        history = fit(self.host, self.quantizer, self.source, self.target, data, config, progress)
        self.attachment.recognise_model()
        return history

    def baseline(
        self,
        kind: Baseline,
        data: Data,
        config: FitConfig | None = None,
        *,
        name: str | None = None,
        n_active: int = 32,
        progress: bool = True,
        **options: Any,
    ) -> "Lens":
        """Another way to give tokens codes, as a lens on the same model.

        It has as many codes, the same target, the mean target of each code for a decoder, and all
        verbs of a lens. Fit it on the data that this lens was fitted on. It leaves out the outliers
        that this lens leaves out.

        Args:
            kind: Such as "k-means"; `clvq_lens.baselines` describes them all.
            data: Documents, as for `fit`.
            config: As for `fit`; None: as this lens was fitted, with as many tokens.
            name: Of the baseline; None: such as "4-8 k-means".
            n_active: Features active in a token, of a sparse autoencoder or transcoder.
            progress: Whether to show progress bars.
            **options: Options of `FitConfig` by name, such as n_tokens, long_texts and seed.

        Returns:
            The fitted baseline; its ``remove()`` takes it off the model again.

        Raises:
            ConfigError: If there is no such baseline.
            NotFittedError: If this lens has not been fitted.
            NameTakenError: If the model has a quantizer of that name.
            TooFewTokensError: If there are fewer distinct tokens than codes.
        """
        self.attachment.require_ready()
        self.attachment.require_closed("fit a baseline")
        require_gradients("A baseline")
        _check_config(config)
        config = (config or self.quantizer.fit_config or FitConfig()).replace(**options)
        attachment = attach_baseline(
            self.attachment, kind, data, config, name=name, n_active=n_active, progress=progress
        )
        lens = Lens(attachment)
        remember_lens(self.model, lens.name, lens)
        return lens

    def encode(self, data: Data, *, long_texts: LongTexts = "split") -> Encoding:
        """The code of every token, with tokens and mask, for texts that fit in memory.

        Args:
            data: Documents, as for `fit`. Tokens [row, pos] keep their rows and positions.
            long_texts: What to do with a text beyond the context: "split" it into rows of their
                own, "truncate" it, or raise an "error".
        """
        self.attachment.require_ready()
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
        self.attachment.require_ready()
        self.attachment.require_closed("evaluate")
        return evaluate(
            self.host, self.quantizer, self.source, self.target, data, progress=progress, **options
        )

    def faithfulness(
        self, texts: Sequence[str], labels: Iterable[Any], *, progress: bool = True, **options: Any
    ) -> Faithfulness:
        """Whether predictions about texts depend on their most salient concepts.

        Integrated gradients find the token that counts most for what the model says of a text. The
        vector of its code is projected out of the sentence vector, raw and centred, and probes
        that did not see the text predict its class again; the same is done in the running model,
        where the code is ablated too. Controls stand beside: a random code, one of about the same
        share, one of another class, another one of the same text, and a random direction.

        Args:
            texts: Texts that the quantizer was not fitted on.
            labels: The class of each.
            progress: Whether to show progress bars.
            **options: ``protocol``: "honest" or "paper", the published one. ``documents``: which
                document each text is from; folds and intervals keep documents whole (None: equal
                texts share one). ``readout``: what the model says of a text, a `head` or
                `answers` (None: a probe of its last layer). ``sentence``: "cls", "last" or "mean"
                (None: "cls" for encoders, "last" for causal models). ``n_folds``, ``n_draws`` and
                ``n_model_draws`` of each control, ``n_steps`` of the integration,
                ``n_replicates`` of the bootstrap, ``long_texts`` and ``seed``.

        Returns:
            Accuracy and probability of the label in every condition with intervals over
            documents, and how much of the effect is specific to the concept.

        Raises:
            NotFittedError: If the quantizer has not been fitted.
            ConfigError: If there is no such protocol, or an option has an impossible value.
            DataError: If texts and labels do not fit together, or a class has too few documents.
        """
        self.attachment.require_ready()
        self.attachment.require_closed("measure faithfulness")
        return faithfulness(self.attachment, texts, labels, progress=progress, **options)

    def concepts(
        self,
        data: Data,
        *,
        n_examples: int = 20,
        labels: TokenLabels | None = None,
        long_texts: LongTexts = "split",
        seed: int = 0,
        progress: bool = True,
    ) -> ConceptTable:
        """What each code means in some data: one pass over any amount of text.

        Ctrl-C ends it early and gives the table of what was read.

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
        self.attachment.require_ready()
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
        long_texts: LongTexts = "split",
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
        self.attachment.require_ready()
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

    def plot_codebook(
        self, labels: Mapping[int, str] | None = None, *, method: Method = "pca", seed: int = 0
    ) -> go.Figure:
        """A map of the codebook: near codes have similar code vectors, large ones many tokens.

        Args:
            labels: What codes mean, such as ``lens.concepts(texts).labels()``.
            method: "pca" or "tsne", as for `clvq_lens.plots.plot_codebook`.
            seed: Of t-SNE.
        """
        self.quantizer.require_fitted()
        vectors, usage = self.quantizer.codebook.vectors, self.quantizer.usage
        return plot_codebook(
            vectors.cpu().numpy(), usage.cpu().numpy(), labels, method=method, seed=seed
        )

    def save(self, folder: str | Path) -> Path:
        """Writes the quantizer to a folder; `clvq_lens.load` reads it."""
        return save(self.quantizer, folder)

    def push_to_hub(
        self,
        repo: str,
        *,
        report: Report | None = None,
        license: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        message: str | None = None,
    ) -> str:
        """Writes the quantizer and a model card to the Hugging Face Hub; `clvq_lens.load` reads it.

        One commit replaces config.json, weights and README.md of an earlier push; other files stay.

        Args:
            repo: "user/repo"; made if needed.
            report: From `evaluate`, for the card.
            license: As the Hub abbreviates it, such as "mit".
            private: Whether a new repository is private; None: as the user's settings say.
            token: That may write; None: that of ``hf auth login``.
            revision: A branch, made if needed; None: the main one.
            message: Of the commit.

        Returns:
            The address of the commit.

        Raises:
            NotFittedError: If the quantizer has not been fitted.
            HubError: If the Hub cannot be reached, or refuses; or if the repository holds another
                program's config.json, or is public and not ``private``, or the reverse.
            ConfigError: If the name or the license is impossible.

        Example:
            >>> lens.push_to_hub("user/gpt2-4-8", report=report)  # doctest: +SKIP
        """
        options = {"private": private, "token": token, "revision": revision, "message": message}
        return push(self.quantizer, repo, report=report, license=license, **options)


def _check_config(config: object) -> None:
    check_is("config", config, FitConfig | None, "Pass a clvq_lens.FitConfig, or its options.")
