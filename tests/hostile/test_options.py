"""Options: every option of everything, with every kind of value."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import clvq_lens as cl
from clvq_lens.host.loading import load_pretrained
from tests.hostile.conftest import PROFILE
from tests.hostile.subjects import QUICK, Subject
from tests.hostile.trial import shown
from tests.hostile.values import SCALARS
from tests.hosts import words

TEXTS = ["w5 w6 w7 w8", "w9 w10 w5 w6 w7", "w30 w31 w32"]
DOCUMENTS = [f"w{5 + n} w6 w{30 + n % 3} w{9 + n}" for n in range(12)]
CLASSES = [n % 2 for n in range(12)]
LABELS = [["a", "b", "a", "b"], ["a", "a", "b", "a", "b"], ["b", "a", "a"]]
TOKENS = words(20, 8, seed=6)
FAITHFULNESS: dict[str, Any] = {
    **{"n_folds": 2, "n_draws": 1, "n_model_draws": 1, "n_steps": 2},
    "progress": False,
}

_HUGE = 1_000
# Options that say how much work to do or memory to take: what is huge there is what was asked for.
_AMOUNTS = {
    *("n_codes", "decoder_layers", "decoder_heads", "d_decoder_mlp", "n_tokens"),
    *("n_examples", "n_controls", "n_steps", "n_true", "n_shuffles", "n_draws", "n_model_draws"),
    *("seeds", "n_seeds", "n_active", "n_folds", "n_texts", "n_clusters", "n_contexts"),
}


def _is_huge(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > _HUGE


def _values(option: str) -> list[Any]:
    return [value for value in SCALARS if not (option in _AMOUNTS and _is_huge(value))]


def _cases(options: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(option, value) for option in options for value in _values(option)]


# ---- configs -------------------------------------------------------------------------------------

CONFIGS = {
    config: [f.name for f in dataclasses.fields(config)] for config in (cl.CLVQConfig, cl.FitConfig)
}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_options_of_configs(trial, config):
    for option in CONFIGS[config]:
        for value in trial.some(SCALARS, in_ci=12):
            trial.run(
                f"{config.__name__}({option}={shown(value)})",
                lambda option=option, value=value: config(**{option: value}),
                lambda made: (hash(made), repr(made), made.replace() == made),
            )
    for name in trial.some([*map(shown, SCALARS), "n_code", "N_CODES", "n-codes"], in_ci=5):
        trial.run(
            f"{config.__name__}().replace({shown(name)}=1)",
            lambda name=name: config().replace(**{name: 1}),
        )


def test_fits_with_any_option(trial, subject):
    """Whatever the config takes, the fit takes too."""
    options = {**dict.fromkeys(CONFIGS[cl.CLVQConfig]), **dict.fromkeys(CONFIGS[cl.FitConfig])}

    def call(option: str, value: Any) -> Any:
        of_config = option in CONFIGS[cl.CLVQConfig]
        base = {"decoder": "transformer" if "decoder" in option else "mlp", "decoder_layers": 1}
        lens = subject.model.add_clvq(
            1,
            2,
            name="new",
            **{"n_codes": 4, "top_k": 1, **base, **({option: value} if of_config else {})},
        )
        try:
            lens.fit(TOKENS, **{**QUICK, **({} if of_config else {option: value})})
            return lens.encode(TOKENS).codes, lens.quantizer.state_dict()
        finally:
            lens.remove()

    def check(result: Any) -> None:
        for name, value in result[1].items():
            if not name.startswith("max_"):  # infinite where outliers are kept
                assert value.isfinite().all(), f"{name} is not finite"

    for option, value in trial.some(_cases(options), in_ci=36):
        trial.run(
            f"fit with {option}={shown(value)}, {subject.kind}",
            lambda option=option, value=value: call(option, value),
            check,
        )


# ---- attaching -----------------------------------------------------------------------------------

LAYERS: list[Any] = [
    *(-1, -4, 3, 4, 10**9, "1", "blocks.1", "blocks.1.hook_resid_post", "blocks.9.hook_resid_post"),
    *("hook_embed", "blocks.1.attn.hook_q", "blocks.1.attn.hook_pattern", "blocks.0.mlp.hook_post"),
    *("ln_final.hook_normalized", "unembed", "clvq.1-2.hook_codes", "blocks.2.hook_resid_pre"),
    *("embed", "blocks.1.hook_in", "blocks.1.hook_out", "blocks..hook", ".", "blocks.-1.hook_out"),
]


def test_any_layers(trial, subject):
    def attach(*layers: Any, **options: Any) -> Any:
        lens = subject.model.add_clvq(*layers, name="new", n_codes=4, top_k=1, **options)
        try:
            subject.model(words(1, 3))
            return repr(lens)
        finally:
            lens.remove()

    for value in trial.some([*SCALARS, *LAYERS], in_ci=14):
        trial.run(
            f"add_clvq({shown(value)}, 3), {subject.kind}", lambda value=value: attach(value, 3)
        )
        trial.run(
            f"add_clvq(0, {shown(value)}), {subject.kind}", lambda value=value: attach(0, value)
        )
        trial.run(
            f"salience at {shown(value)}, {subject.kind}",
            lambda value=value: cl.salience(
                subject.model, TEXTS, value, _head(3), n_steps=2, progress=False
            ),
        )
        trial.run(
            f"collapse over layers [{shown(value)}], {subject.kind}",
            lambda value=value: cl.collapse(
                subject.lens, TOKENS, layers=[value], n_clusters=2, progress=False
            ),
        )


def test_what_attaches(trial, subject):
    def attach(**options: Any) -> None:
        subject.model.add_clvq(
            **{"source": 1, "target": 2, "name": "new", "n_codes": 4, "top_k": 1, **options}
        ).remove()

    for value in trial.some(SCALARS, in_ci=8):
        for option in ("name", "config", "check_weights"):
            trial.run(
                f"add_clvq({option}={shown(value)}), {subject.kind}",
                lambda option=option, value=value: attach(**{option: value}),
            )
        for what, call in {
            "add_clvq(quantizer=...)": lambda value=value: subject.model.add_clvq(quantizer=value),
            "add_clvq of": lambda value=value: cl.add_clvq(value, 1, 2),
            "clvqs of": lambda value=value: cl.clvqs(value),
            "from_hf of": lambda value=value: cl.from_hf(value),
            "load_pretrained of": lambda value=value: load_pretrained(value),
            "concept_flow of": lambda value=value: cl.concept_flow(value, TEXTS, progress=False),
            "sentence_flow of": lambda value=value: cl.sentence_flow(value, TEXTS[0]),
            "ablation_sweep of": lambda value=value: cl.ablation_sweep(value, TEXTS, cl.kl()),
            "compare of": lambda value=value: cl.compare([value], TEXTS, progress=False),
            "stability of": lambda value=value: cl.stability(value, TEXTS),
            "alignment of": lambda value=value: cl.alignment(value, TEXTS, LABELS),
        }.items():
            trial.run(f"{what} {shown(value)}, {subject.kind}", call)


# ---- verbs ---------------------------------------------------------------------------------------


def _head(n_classes: int, **options: Any) -> Any:
    weight = torch.randn(n_classes, 16, generator=torch.Generator().manual_seed(0))
    return cl.head(weight, **{"layer": 3, "sentence": "mean", **options})


def _detection(s: Subject, **options: Any) -> Any:
    table = s.lens.concepts(TOKENS, n_examples=4, progress=False)
    return cl.detection(table, **{"n_contexts": 4, **options})


def _refits(s: Subject, **options: Any) -> None:
    with cl.refits(s.lens, TOKENS, **{"seeds": 1, "n_tokens": 200, "progress": False, **options}):
        pass


def _baseline(s: Subject, *, kind: Any = "k-means", **options: Any) -> None:
    s.lens.baseline(kind, TOKENS, **{**QUICK, **options}).remove()


def _sweep(s: Subject, *, metric: Any = None, **options: Any) -> Any:
    metric = cl.kl() if metric is None else metric
    return cl.ablation_sweep(s.lens, TEXTS, metric, progress=False, **options)


Call = Callable[..., Any]
VERBS: dict[str, tuple[Call, list[str]]] = {
    "encode": (lambda s, **o: s.lens.encode(TEXTS, **o), ["long_texts"]),
    "evaluate": (
        lambda s, **o: s.lens.evaluate(TEXTS, **{"progress": False, **o}),
        ["metrics", "long_texts", "seed", "token_labels"],
    ),
    "concepts": (
        lambda s, **o: s.lens.concepts(TEXTS, **{"n_examples": 2, "progress": False, **o}),
        ["n_examples", "token_labels", "long_texts", "seed"],
    ),
    "report": (
        lambda s, **o: s.lens.report(
            TEXTS, "options.html", **{"n_examples": 1, "progress": False, **o}
        ),
        [
            *("n_examples", "n_texts", "token_labels", "concepts", "evaluation", "flow"),
            *("history", "long_texts"),
        ],
    ),
    "baseline": (_baseline, ["kind", "config", "name", "n_active", "seed", "batch_tokens"]),
    "plot_codebook": (lambda s, **o: s.lens.plot_codebook(**o), ["names", "method", "seed"]),
    "concept_flow": (
        lambda s, **o: cl.concept_flow(s.model, TEXTS, progress=False, **o),
        ["ends", "token_labels", "long_texts", "seed"],
    ),
    "causal_flow": (
        lambda s, **o: cl.causal_flow(s.model, TEXTS, **{"n_controls": 1, "progress": False, **o}),
        ["to", "n_controls", "long_texts"],
    ),
    "sentence_flow": (lambda s, **o: cl.sentence_flow(s.model, TEXTS[0], **o), ["metric"]),
    "ablation_sweep": (_sweep, ["metric", "by_position", "codes", "to", "seed"]),
    "concept_patching": (
        lambda s, **o: cl.concept_patching(
            s.lens, "w5 w6 w7", "w8 w6 w7", cl.kl(), progress=False, **o
        ),
        ["control", "seed"],
    ),
    "attribution": (
        lambda s, **o: cl.attribution(
            s.lens, TEXTS[0], cl.kl(), **{"n_steps": 2, "n_true": 2, "progress": False, **o}
        ),
        ["n_steps", "n_true", "exact_decoder", "seed"],
    ),
    "salience": (
        lambda s, **o: cl.salience(
            s.model, TEXTS, 1, _head(3), **{"n_steps": 2, "progress": False, **o}
        ),
        ["classes", "quantity", "n_steps", "start", "long_texts"],
    ),
    "faithfulness": (
        lambda s, **o: s.lens.faithfulness(DOCUMENTS, CLASSES, **{**FAITHFULNESS, **o}),
        [
            *(
                "protocol",
                "documents",
                "readout",
                "sentence",
                "n_folds",
                "n_draws",
                "n_model_draws",
            ),
            *("n_steps", "smallest_effect", "long_texts", "seed"),
        ],
    ),
    "compare": (
        lambda s, **o: cl.compare(
            [s.lens, "k-means"], TEXTS, **{"train": TEXTS * 9, "progress": False, **o}
        ),
        ["train", "n_seeds", "config", "token_labels", "keep", "long_texts", "seed", "classes"],
    ),
    "alignment": (
        lambda s, **o: cl.alignment(
            s.lens, TEXTS, LABELS, **{"n_shuffles": 2, "min_tokens": 1, **o}
        ),
        ["threshold", "min_tokens", "n_shuffles", "long_texts", "seed"],
    ),
    "stability": (
        lambda s, **o: cl.stability({"codes": [s.lens] * 2}, TEXTS, **o),
        ["how", "long_texts", "seed"],
    ),
    "collapse": (
        lambda s, **o: cl.collapse(
            s.lens,
            TOKENS,
            **{"n_clusters": 3, "n_tokens": 100, "progress": False, **o},
        ),
        ["held_out", "layers", "n_clusters", "n_tokens", "long_texts", "seed"],
    ),
    "refits": (_refits, ["seeds", "how", "kind", "config", "n_tokens"]),
    "detection": (_detection, ["judge", "names", "codes", "n_contexts", "seed", "progress"]),
    "judges.openai": (
        lambda s, base_url="http://localhost:1/v1", model="m", **o: cl.judges.openai(
            base_url, model, **o
        ),
        ["base_url", "model", "api_key", "cache", "n_parallel", "timeout_s", "max_tokens"],
    ),
    "logit_diff": (
        lambda s, correct="w5", incorrect="w6", **o: _sweep(
            s, metric=cl.logit_diff(correct, incorrect, **o)
        ),
        ["correct", "incorrect", "at"],
    ),
    "probability": (
        lambda s, token="w5", **o: _sweep(s, metric=cl.probability(token, **o)),
        ["token", "at"],
    ),
    "loss": (lambda s, **o: _sweep(s, metric=cl.loss(**o)), ["at"]),
    "kl": (lambda s, **o: _sweep(s, metric=cl.kl(**o)), ["at"]),
    "head": (
        lambda s, **o: cl.salience(s.model, TEXTS, 1, _head(3, **o), n_steps=2, progress=False),
        ["bias", "layer", "sentence"],
    ),
    "answers": (
        lambda s, tokens=("w5", "w6"): cl.salience(
            s.model, TEXTS, 1, cl.answers(tokens), n_steps=2, progress=False
        ),
        ["tokens"],
    ),
    "toy.generate": (
        lambda s, n_texts=1, **o: cl.toy.generate(n_texts, **{"seed": 0, **o}),
        ["n_texts", "seed"],
    ),
}
_SLOW = {"faithfulness", "compare", "report"}


@pytest.mark.parametrize("verb", VERBS)
def test_options_of_verbs(trial, subject, verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, options = VERBS[verb]
    cases = _cases(dict.fromkeys(options))
    for option, value in trial.some(cases, in_ci=1 if verb in _SLOW else 3):
        trial.run(
            f"{verb}({option}={shown(value)}), {subject.kind}",
            lambda option=option, value=value: call(subject, **{option: value}),
        )


def test_options_that_do_not_exist(trial, subject):
    for verb, (call, _) in VERBS.items():
        if verb == "judges.openai":  # what it does not know is a field of its requests
            continue
        trial.run(
            f"{verb}(no_such_option=1), {subject.kind}",
            lambda call=call: call(subject, no_such_option=1),
            lambda _: _fail("an option that does not exist was taken"),
            documented=(TypeError,),
        )


def _fail(message: str) -> None:
    raise AssertionError(message)


_NUMBERS = st.integers(-5, 60) | st.floats() | st.integers() | st.none() | st.booleans()


def test_generated_configs(trial):
    """Any combination of options is refused or can be built."""
    names = [name for name in CONFIGS[cl.CLVQConfig] if not name.startswith("decoder_m")]

    @PROFILE
    @given(options=st.dictionaries(st.sampled_from(names), _NUMBERS, max_size=4))
    def search(options: dict[str, Any]) -> None:
        def call() -> Any:
            config = cl.CLVQConfig(**options)
            amounts = [value for name, value in options.items() if name in _AMOUNTS]
            if not any(map(_is_huge, amounts)):
                cl.CrossLayerQuantizer(config, 16, 16, causal=True)

        trial.run(f"CLVQConfig({shown(options)})", call)

    search()
