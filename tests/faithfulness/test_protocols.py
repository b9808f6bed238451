"""Faithfulness on the toy world, whose first sentence decides between "indoors" and "outdoors"."""

import dataclasses
import logging
from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest
import torch

import clvq_lens as cl
from clvq_lens.errors import ConfigError, DataError, EmptyCorpusError
from clvq_lens.faithfulness.case import Case, CaseOptions, prepare
from clvq_lens.faithfulness.classified_texts import ClassifiedTexts
from clvq_lens.faithfulness.controls import Removal, WeightedCodebook, draw_removals
from clvq_lens.faithfulness.effects import Effect
from clvq_lens.faithfulness.model_effects import model_effects
from clvq_lens.faithfulness.protocols import judge
from clvq_lens.faithfulness.tokenized_texts import TokenizedTexts, read_codes
from clvq_lens.host.host import Host
from clvq_lens.host.vocabulary import Vocabulary

CONTROLS = [
    "random code",
    "share-matched code",
    "code of another class",
    "another code of the text",
    "random direction",
]
ANSWERS = cl.answers([["indoors", "upstairs"], ["outdoors", "outside"]])
FAST = {"n_steps": 4, "n_draws": 2, "n_model_draws": 2, "progress": False}


@pytest.fixture(scope="module")
def lens(toy):
    lens = toy.model.add_clvq(0, 2, n_codes=256, decoder="table", name="faithfulness")
    lens.fit(toy.texts, n_tokens=20_000, progress=False)
    yield lens
    lens.remove()


@pytest.fixture(scope="module")
def texts() -> tuple[list[str], list[str]]:
    """The first sentence and the beginning of another; whether it is in or out of doors."""
    stories = cl.toy.generate(60, seed=9)
    where = [
        next(label for label in labels if label in ("indoor", "outdoor"))
        for labels in cl.toy.token_labels(stories)
    ]
    return [story.split(" . ")[0] + " . finally we left the pool" for story in stories], where


@pytest.fixture(scope="module")
def result(lens, texts):
    return lens.faithfulness(*texts, readout=ANSWERS, n_folds=3, **FAST)


def test_every_effect_stands_beside_its_controls(result):
    frame = result.frame()
    for place in ("probe", "model"):
        for ablation in ("raw", "centered"):
            rows = frame[(frame["place"] == place) & (frame["ablation"] == ablation)]
            assert rows["condition"].tolist() == ["concept", *CONTROLS]
    codes = frame[frame["ablation"] == "code"]
    assert codes["condition"].tolist() == ["concept", "another code of the text"]
    assert len(result.specific()) == 4 * len(CONTROLS) + 1
    for column in ("accuracy", "drop", "changed"):
        assert (frame[f"{column}_low"] <= frame[column]).all()
        assert (frame[column] <= frame[f"{column}_high"]).all()


def test_the_drop_is_the_probability_without_the_removal_less_that_with_it(result):
    frame = result.frame().set_index(["place", "ablation", "condition"])
    clean = frame.loc[("model", "", "unperturbed"), "probability"]
    concept = frame.loc[("model", "raw", "concept")]
    assert concept["drop"] == pytest.approx(clean - concept["probability"])
    contrast = result.specific().set_index(["place", "ablation", "control"])
    other = frame.loc[("model", "raw", "random code")]
    found = contrast.loc[("model", "raw", "random code")]
    assert found["drop"] == pytest.approx(concept["drop"] - other["drop"])
    assert found["accuracy"] == pytest.approx(other["accuracy"] - concept["accuracy"])


class InModel(NamedTuple):
    """What the removals of one draw do in the model; the first text stands at the end, too, as both
    classes."""

    case: Case
    removals: list[Removal]
    effects: dict[tuple[str, str], Effect]


@pytest.fixture(scope="module")
def ablated(lens, texts) -> InModel:
    classified = ClassifiedTexts.of(
        [*texts[0], texts[0][0], texts[0][0]],
        [*texts[1], "outdoor", "indoor"],
        range(len(texts[0]) + 2),
    )
    options = CaseOptions(readout=ANSWERS, n_folds=3, n_steps=4)
    case = prepare(lens.host, lens.source, classified, options, progress=False)
    of_texts = read_codes(lens.attachment, case.tokens, progress=False)
    removals = draw_removals(
        of_texts.at(case.salient.positions),
        of_texts,
        case.texts.classes,
        WeightedCodebook.of(lens.quantizer),
        n_draws=1,
        random=np.random.default_rng(0),
    )
    effects = model_effects(case, lens.attachment, removals, n_draws=1, progress=False)
    return InModel(case, removals, {(e.ablation, e.condition): e for e in effects})


def probability_of_outdoor(lens, text: str) -> float:
    """What the model says as it runs now, with all hooks."""
    ids = [[lens.host.vocabulary.id_of(word) for word in words] for words in ANSWERS.tokens]
    with torch.no_grad():
        logits = lens.model(lens.model.to_tokens(text))[0, -1]
    classes = [logits[of_class].exp().sum() for of_class in ids]
    return float(classes[1] / sum(classes))


def test_without_a_code_the_model_says_what_an_edit_makes_it_say(lens, texts, ablated):
    with lens.edit(cl.Ablate(int(ablated.removals[0].codes[0, 0]), "mean")):
        edited = probability_of_outdoor(lens, texts[0][0])
    said = ablated.effects["code", "concept"].probability
    assert said[-2:] == pytest.approx([edited, 1 - edited], abs=1e-5)


@pytest.mark.parametrize("ablation", ["raw", "centered"])
def test_without_a_direction_the_model_says_what_a_hook_at_the_last_token_makes_it_say(
    lens, texts, ablated, ablation
):
    concept = ablated.removals[0]
    direction, origin = concept.directions[0, 0], np.zeros(lens.quantizer.d_source)
    if ablation == "centered":
        direction = WeightedCodebook.of(lens.quantizer).centered(concept)[0, 0]
        origin = ablated.case.vectors.source.mean(0)
    unit = torch.as_tensor(direction / np.linalg.norm(direction)).float()
    from_origin = torch.as_tensor(origin).float()

    def without(stream, hook):
        stream[:, -1] -= ((stream[:, -1] - from_origin) @ unit)[:, None] * unit
        return stream

    with lens.model.hooks(fwd_hooks=[(lens.source, without)]):
        hooked = probability_of_outdoor(lens, texts[0][0])
    said = ablated.effects[ablation, "concept"].probability
    assert said[-2:] == pytest.approx([hooked, 1 - hooked], abs=1e-5)


def test_the_most_salient_word_is_the_one_that_decides(result):
    """In most texts: fields and forests are outdoors, halls and cellars indoors."""
    decides = {"cellar", "hall", "lobby", "corridor", "field", "forest", "valley", "meadow"}
    frame = result.texts
    words = frame["token"].str.strip()
    assert words.isin(decides).mean() > 0.5 or (words.value_counts().head(4) > 3).all()
    assert result.completeness_error < 0.2


@pytest.mark.parametrize("readout", [ANSWERS, None], ids=["one readout", "a probe for each fold"])
def test_every_text_is_tokenized_once(lens, texts, monkeypatch, readout):
    seen: Counter[str] = Counter()
    tokenize = Vocabulary.tokenize

    def counting(self: Vocabulary, texts):
        seen.update(texts)
        return tokenize(self, texts)

    monkeypatch.setattr(Vocabulary, "tokenize", counting)
    options = FAST | {"n_steps": 1, "n_draws": 1, "n_model_draws": 1}
    lens.faithfulness(*texts, readout=readout, n_folds=2, **options)
    del seen[""]  # what a vocabulary asks about its own special tokens
    assert seen == Counter(texts[0])


def test_texts_are_read_as_the_tokens_that_they_are(lens, texts):
    """Rows from the tokenizer are not stripped of padding: what stands in a text is its text."""
    vocabulary = lens.host.vocabulary
    padding = vocabulary.strings(torch.tensor([vocabulary.padding]))[0]
    text = f"{texts[0][0]} {padding}"
    [row] = vocabulary.tokenize([text])
    [batch] = TokenizedTexts(lens.host, [text], "error").batches()
    assert batch.tokens.tolist() == [row.tolist()]


def test_a_text_that_is_cut_is_said_once_for_all_passes(lens, texts, caplog):
    long = " ".join([texts[0][0]] * 40)
    with caplog.at_level(logging.WARNING):
        lens.faithfulness(
            [*texts[0][:20], long], [*texts[1][:20], texts[1][0]], readout=ANSWERS, n_folds=2,
            long_texts="truncate", **FAST,
        )  # fmt: skip
    assert [record.message.split(":")[0] for record in caplog.records] == [
        f"Longer than the model's context of {lens.host.n_context} tokens"
    ]


def test_texts_of_a_fold_keep_their_numbers(lens, texts):
    tokens = TokenizedTexts(lens.host, texts[0], "error")
    chosen = np.array([7, 3, 30])
    rows = {}
    for batch in tokens.batches(chosen):
        for row, text in enumerate(batch.documents):
            rows[text] = batch.tokens[row][batch.attended[row]].tolist()
    assert rows == {n: lens.host.vocabulary.tokenize([texts[0][n]])[0].tolist() for n in chosen}
    assert [document.number for document in tokens.documents(chosen)] == [0, 1, 2]


def test_a_probe_reads_the_model_where_no_readout_is_given(lens, texts):
    result = lens.faithfulness(*texts, n_folds=3, **FAST)
    assert {"probe", "model"} == set(result.frame()["place"])
    assert result.value("model", "", "unperturbed", "accuracy") > result.chance
    found = zip(texts[0], result.texts["position"], result.texts["token"], strict=True)
    for text, at, token in found:
        assert lens.model.to_str_tokens(text)[at] == token.strip()


def test_the_published_protocol_has_one_control_and_no_model(lens, texts):
    result = lens.faithfulness(*texts, readout=ANSWERS, protocol="paper", n_folds=4, **FAST)
    assert result.frame()["condition"].tolist() == ["unperturbed", "concept", "random direction"]
    assert set(result.frame()["place"]) == {"probe"}
    assert "retrained" not in result.frame()


def prepared(lens, texts, classes, documents=None, **options) -> Case:
    classified = ClassifiedTexts.of(texts, classes, documents)
    return prepare(lens.host, lens.source, classified, CaseOptions(**options), progress=False)


def test_texts_of_a_document_are_in_one_fold(lens, texts):
    documents = np.arange(len(texts[0])) // 3
    case = prepared(lens, *texts, documents, n_folds=3, n_steps=2)
    for train, test in case.folds:
        assert not set(case.texts.documents[train]) & set(case.texts.documents[test])


def test_same_seed_same_numbers(lens, texts, result):
    again = lens.faithfulness(*texts, readout=ANSWERS, n_folds=3, **FAST)
    assert again.frame().equals(result.frame())
    assert repr(again) == repr(result)


def test_it_shows_itself_in_one_line_and_a_table_of_verdicts(result):
    assert repr(result).startswith("Faithfulness(honest protocol, 60 texts of 60 documents, 3 fold")
    accuracy = result.value("probe", "centered", "concept", "accuracy")
    assert f"{float(accuracy):.3f} without the concept (centered), chance 0." in repr(result)
    table = result.preview()
    assert table["ablation"].tolist() == ["raw", "centered", "raw", "centered", "code"]
    words = result.verdict().split("\n")
    assert words[-1].startswith("5 verdicts tried and corrected for by Holm's method")
    for line, findings in zip(words[:-1], table["verdict"], strict=True):
        assert all(finding in line for finding in findings.split("; "))


def test_what_it_shows_is_one_line_and_escaped(result):
    contrasts = result.contrasts.assign(control="<script>")
    hostile = dataclasses.replace(result, protocol="<b>\nhonest", contrasts=contrasts)
    assert "\n" not in repr(hostile)
    html = hostile._repr_html_()
    assert "&lt;b&gt;" in html
    assert "&lt;script&gt;" in html
    assert "<script>" not in html
    assert "<b>\n" not in html


def test_pictures_and_words(result):
    figure = result.plot()
    assert len(figure.data) == 5
    assert "model, code:" in result.verdict()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"protocol": "onest"}, ConfigError, "protocol is 'onest'. Closest: 'honest'"),
        ({"n_folds": 1}, ConfigError, "n_folds is 1; pass a whole number from 2"),
        (
            {"smallest_effect": -0.1},
            ConfigError,
            "smallest_effect is -0.1; pass a number",
        ),
        ({"smallest_effect": "small"}, ConfigError, "smallest_effect is 'small'; pass a number"),
        ({"n_draws": 0}, ConfigError, "n_draws is 0; pass a whole number from 1"),
        ({"n_folds": 50}, DataError, "too few for 50 folds. Pass more of them"),
        ({"documents": [1, 2]}, DataError, "60 classes and 2 documents. Pass one class"),
    ],
)
def test_impossible_options_are_refused(as_for_a_user, lens, texts, options, error, match):
    with pytest.raises(error, match=match):
        lens.faithfulness(*texts, progress=False, **options)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["a", None, "b"], "Text 1 has the class None"),
        ([0.0, float("nan"), 1.0], "Text 1 has the class nan"),
        (["a", "b", 1], "text 0 has a string, and text 2 the number 1"),
        ([["a"], ["b"], ["a"]], "Text 0 has the class .'a'."),
    ],
)
def test_classes_that_are_missing_or_of_several_kinds_are_refused(classes, message):
    with pytest.raises(DataError, match=message):
        ClassifiedTexts.of(["x", "y", "z"], classes, None)
    with pytest.raises(DataError, match=message.replace("class", "document")):
        ClassifiedTexts.of(["x", "y", "z"], ["a", "b", "a"], classes)


def test_texts_and_classes_may_come_from_generators(lens, texts):
    classified = ClassifiedTexts.of(iter(texts[0]), (name for name in texts[1]), None)
    assert classified.texts == tuple(texts[0])
    options = FAST | {"n_folds": 2, "n_steps": 1, "n_draws": 1, "n_model_draws": 1}
    found = lens.faithfulness(iter(texts[0]), iter(texts[1]), readout=ANSWERS, **options)
    assert found.texts["class"].tolist() == texts[1]


def test_impossible_texts_are_refused(lens, texts):
    with pytest.raises(DataError, match="All texts have the same class"):
        lens.faithfulness(texts[0], ["indoor"] * 60, progress=False)
    with pytest.raises(DataError, match="Some of the texts are not strings"):
        ClassifiedTexts.of([1, *texts[0][1:]], texts[1], None)
    with pytest.raises(EmptyCorpusError, match=r"Text 0 is empty\. Leave it out"):
        lens.faithfulness(["", *texts[0][1:]], texts[1], n_folds=3, progress=False)


def test_a_readout_of_other_classes_is_refused(lens, texts):
    readout = cl.answers(["indoors", "outdoors", "upstairs"])
    with pytest.raises(DataError, match="The readout knows 3 classes, but the texts have"):
        lens.faithfulness(*texts, readout=readout, n_folds=3, n_steps=1, progress=False)


def test_a_case_of_another_hook_point_is_refused(lens, texts):
    classified = ClassifiedTexts.of(*texts, None)
    options = CaseOptions(n_folds=3, n_steps=1)
    case = prepare(lens.host, lens.target, classified, options, progress=False)
    with pytest.raises(ConfigError, match="Prepare one for that hook point"):
        judge(case, lens)


# ---- what is run again ---------------------------------------------------------------------------


def effects_of(lens, ablated, **options):
    options = {"n_draws": 1, "progress": False, **options}
    effects = model_effects(ablated.case, lens.attachment, ablated.removals, **options)
    return {(effect.ablation, effect.condition): effect.probability for effect in effects}


@pytest.fixture
def lengths_run(monkeypatch):
    """How many positions each pass has that begins with other activations at the source."""
    lengths = []
    logits_with = Host.logits_with

    def noting(self, name, value, *args, **options):
        if name == "blocks.0.hook_resid_post":
            lengths.append(value.shape[1])
        return logits_with(self, name, value, *args, **options)

    monkeypatch.setattr(Host, "logits_with", noting)
    return lengths


def test_only_last_tokens_are_run_again_and_say_what_whole_texts_say(
    lens, ablated, lengths_run, monkeypatch
):
    last_tokens = effects_of(lens, ablated)
    assert set(lengths_run) == {1}
    lengths_run.clear()
    monkeypatch.setattr("clvq_lens.faithfulness.model_effects.is_untouched", lambda host: False)
    whole = effects_of(lens, ablated)
    assert min(lengths_run) > 1
    assert last_tokens.keys() == whole.keys()
    for name, probability in last_tokens.items():
        np.testing.assert_allclose(probability, whole[name], atol=1e-5)
    np.testing.assert_array_less(1e-4, np.abs(whole["raw", "concept"] - whole["", "unperturbed"]))


def test_all_removals_of_a_text_take_as_many_passes_as_the_host_allows(
    lens, ablated, lengths_run, monkeypatch
):
    effects_of(lens, ablated)
    assert len(lengths_run) == len(ablated.case.texts)
    whole = effects_of(lens, ablated)
    lengths_run.clear()
    monkeypatch.setattr(Host, "positions_per_pass", 40)
    for name, probability in effects_of(lens, ablated).items():
        np.testing.assert_allclose(probability, whole[name], atol=1e-5)
    assert len(lengths_run) > 2 * len(ablated.case.texts)


@pytest.mark.parametrize("what", ["hook", "block"])
def test_whole_texts_are_run_where_something_else_acts_on_the_model(
    lens, ablated, lengths_run, what
):
    """A hook may count positions, and a pass of one token would have it count wrong."""
    model = lens.model

    def at_second_position(value, hook):
        value = value.clone()
        value[:, 1] += 3
        return value

    other = model.add_clvq(0, 1, n_codes=2, decoder="table", name="other")
    try:
        if what == "hook":
            with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", at_second_position)]):
                effects_of(lens, ablated)
        else:
            with other.attachment.recording():
                effects_of(lens, ablated)
    finally:
        other.remove()
    assert min(lengths_run) > 1


@pytest.mark.parametrize("sentence", ["mean", "last"])
def test_whole_texts_are_run_where_more_than_the_last_token_changes(
    lens, ablated, lengths_run, sentence
):
    effects_of(lens, ablated._replace(case=dataclasses.replace(ablated.case, sentence=sentence)))
    assert (min(lengths_run) > 1) == (sentence == "mean")
