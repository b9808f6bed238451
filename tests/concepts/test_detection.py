from dataclasses import replace

import numpy as np
import pytest

import clvq_lens as cl
from clvq_lens.concepts.concept import Concept, Counted, Example, name_from
from clvq_lens.concepts.detection import Detection, detection, marked_token
from clvq_lens.concepts.kept_back import shown_examples
from clvq_lens.concepts.table import ConceptTable
from clvq_lens.errors import CodeRangeError, ConfigError, DataError, ShapeError
from tests.concepts.test_table import concept as a_concept

WORDS = ("cat", "dog", "cow", "hen")


def concept(code: int, n_examples: int = 20) -> Concept:
    random = tuple(
        Example(i, 1, f"{code}.{i} ", WORDS[code], " end", 0.0, 0.0) for i in range(n_examples)
    )
    return replace(a_concept(code, usage=5), name=WORDS[code], random=random)


TABLE = ConceptTable(tuple(map(concept, range(4))), 20, 1.0, 1.0)


def test_a_judge_who_knows_is_always_right_and_wrong_names_do_not_help():
    result = detection(TABLE)
    assert result.accuracy == (1.0,) * 4
    assert all(control <= 0.75 for control in result.control)
    summary = result.summary()
    assert summary["names"].tolist() == ["own", "of another code"]
    assert summary["accuracy"][0] == summary["low"][0] == summary["high"][0] == 1.0
    assert summary["accuracy"][1] < 0.7


def test_a_judge_who_guesses_is_at_chance():
    random = np.random.default_rng(0)
    result = detection(TABLE, lambda name, contexts: list(random.random(len(contexts)) < 0.5))
    assert np.mean(result.accuracy) == pytest.approx(0.5, abs=0.15)
    always = detection(TABLE, lambda name, contexts: [True] * len(contexts))
    assert always.accuracy == always.control == (0.5,) * 4  # as many belong as do not


def test_the_judge_is_blinded():
    """Only a name and marked contexts, in random order, none of which made the name."""
    asked = []

    def judge(name, contexts):
        asked.append((name, contexts))
        return [True] * len(contexts)

    detection(TABLE, judge, n_contexts=8)
    orders = set()
    for name, contexts in asked[::2]:
        code = WORDS.index(name)
        assert len(contexts) == 8
        shown = {example.document for example in shown_examples(TABLE[code])}
        own = [context.startswith(f"{code}.") for context in contexts]
        orders.add(tuple(own))
        assert sum(own) == 4
        for context in contexts:
            document = int(context.split(".")[1].split()[0])
            assert document not in shown  # kept back from named()
            assert "<<" in context
    assert len(orders) > 1
    assert [contexts for _, contexts in asked[::2]] == [contexts for _, contexts in asked[1::2]]
    assert all(own != other for (own, _), (other, _) in zip(asked[::2], asked[1::2], strict=True))


def test_every_control_name_is_used_once():
    asked = []
    detection(TABLE, lambda name, contexts: asked.append(name) or [True] * len(contexts))
    assert sorted(asked[1::2]) == sorted(WORDS)


def test_the_seed_decides_the_contexts():
    def contexts(seed):
        shown = []
        detection(TABLE, lambda _, c: shown.append(c) or [True] * len(c), seed=seed)
        return shown

    assert contexts(0) == contexts(0) != contexts(1)


def test_a_few_codes_can_be_judged_with_other_names():
    result = detection(TABLE, names={0: "hen", 1: "dog"}, codes=[0, 1])
    assert result.codes == (0, 1)
    assert result.names == ("hen", "dog")
    assert result.accuracy[0] < 0.75
    assert result.accuracy[1] == 1.0


def test_the_frame_has_chance_and_control_beside_accuracy():
    frame = Detection((3, 4), ("a", "b"), (20, 20), (0.5, 0.9), (0.5, 0.4)).frame()
    assert frame["code"].tolist() == [4, 3]
    assert frame["chance"].tolist() == [0.5, 0.5]
    assert set(frame) == {"code", "name", "n_contexts", "accuracy", "control", "chance"}


def test_a_detection_shows_its_means_in_one_line_and_escapes_names_in_html():
    bad = "<script>alert('1')</script>\n&"
    result = Detection((3, 4), (bad, "b"), (20, 20), (0.5, 0.9), (0.5, 0.4))
    assert repr(result) == (
        "Detection(2 codes, mean accuracy 0.70, with names of other codes 0.45, chance 0.5)"
    )
    html = result._repr_html_()
    assert "2 codes, mean accuracy 0.70" in html
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_the_picture_shows_accuracy_control_and_chance():
    figure = Detection((3, 4), ("<b>", "b"), (20, 20), (0.5, 0.9), (0.5, 0.4)).plot()
    drawn = {trace.name: list(trace.y) for trace in figure.data}
    assert drawn == {"own name": [0.9, 0.5], "name of another code": [0.4, 0.5]}
    assert figure.data[0].text[1] == "code 3: &lt;b&gt;"


def test_a_judge_who_answers_too_little_is_refused():
    with pytest.raises(ShapeError, match="gave 1 answers for 20 contexts"):
        detection(TABLE, lambda name, contexts: [True])


def test_a_table_without_kept_back_examples_is_refused():
    table = ConceptTable((concept(0), concept(1, n_examples=1)), 20, 1.0, 1.0)
    with pytest.raises(DataError, match="1 codes have a name and random examples"):
        detection(table)


def test_codes_with_too_few_documents_are_left_out_and_counted():
    rare = replace(concept(3), random=concept(3).random[:1])  # one document
    result = detection(ConceptTable((*TABLE.concepts[:3], rare), 20, 1.0, 1.0))
    assert result.codes == (0, 1, 2)
    assert result.left_out == (3,)
    assert repr(result).startswith("Detection(3 codes (1 left out), mean accuracy 1.00")
    assert detection(TABLE).left_out == ()
    unused = replace(concept(3), usage=0, random=(), typical=())
    assert detection(ConceptTable((*TABLE.concepts[:3], unused), 20, 1.0, 1.0)).left_out == ()


def test_contexts_that_are_all_of_one_document_are_refused():
    def in_one(code: int) -> Concept:
        random = tuple(replace(example, document=0) for example in concept(code).random)
        return replace(concept(code), random=random)

    table = ConceptTable(tuple(map(in_one, range(4))), 20, 1.0, 1.0)
    with pytest.raises(DataError, match=r"0 codes have .* 4 codes have none\. Pass .* documents"):
        detection(table)


def test_the_built_in_judge_looks_at_the_marked_token_only():
    assert marked_token("<< cat", ["a <<cat>> dog", "cat <<dog>>", "<< <<<< >>"]) == [
        True, False, False,
    ]  # fmt: skip


def test_the_built_in_judge_knows_marks_by_the_words_of_names_made_of_tokens():
    assert name_from([Counted(text, 2, 0.5, 1.0) for text in (",", "\n", ".")]) == (
        "comma \u21b5 full-stop"
    )
    contexts = ["one<<,>> two", "one<<\n>>two", "one<< ;>> two", "one <<comma>>"]
    assert marked_token("comma \u21b5 full-stop", contexts) == [True, True, False, True]


@pytest.mark.parametrize(
    ("context", "token"),
    [("the <<<unk>>> said", "unk"), ("the <unk<<>>> said", ">"), ("the <<<>>unk>", "<")],
)
def test_the_built_in_judge_tells_the_mark_from_brackets_of_the_text(context: str, token: str):
    assert marked_token(token, [context, "the <<other>>"]) == [True, False]


def test_names_of_the_toy_world_tell_its_concepts_apart(toy):
    lens = toy.model.add_clvq(1, 3, n_codes=48, decoder="table")
    try:
        lens.fit(toy.texts, n_tokens=16_000, progress=False)
        names = lens.concepts(toy.texts, progress=False).named().names()
        held_out = lens.concepts(cl.toy.generate(300, seed=5), progress=False)
    finally:
        lens.remove()
    own, other = detection(held_out, names=names).summary()["accuracy"]
    assert other == pytest.approx(0.5, abs=0.1)
    assert own > other + 0.2


class _Memory:
    """Names codes by numbers and keeps what it was shown; its judges know nothing else."""

    def __init__(self, table: ConceptTable) -> None:
        self.shown: dict[str, tuple[Example, ...]] = {}
        self.table = table.named(self._name)
        # Where a context stands: what a judge that remembers all of its documents would know.
        self.places: dict[str, list[tuple[int, int]]] = {}
        for concept in self.table:
            for example in concept.random:
                place = (example.document, example.position)
                self.places.setdefault(_marked(example), []).append(place)

    def _name(self, examples: tuple[Example, ...]) -> str:
        name = f"name {len(self.shown)}"
        self.shown[name] = examples
        return name

    def same_passage(self, name: str, contexts: tuple[str, ...]) -> list[bool]:
        """Says yes to contexts that overlap with one that it was shown."""
        answers = []
        for context in contexts:
            answers.append(
                any(
                    document == example.document and abs(position - example.position) <= 16
                    for document, position in self.places[context]
                    for example in self.shown.get(name, ())
                )
            )
        return answers

    def same_document(self, name: str, contexts: tuple[str, ...]) -> list[bool]:
        documents = {example.document for example in self.shown.get(name, ())}
        answers = []
        for context in contexts:
            answers.append(any(document in documents for document, _ in self.places[context]))
        return answers

    def same_text(self, name: str, contexts: tuple[str, ...]) -> list[bool]:
        texts = {_unmarked(_marked(example)) for example in self.shown.get(name, ())}
        return [_unmarked(context) in texts for context in contexts]

    def not_of_another(self, name: str, contexts: tuple[str, ...]) -> list[bool]:
        """Says no to contexts of documents that it was shown under another name."""
        documents: set[int] = set()
        for other, examples in self.shown.items():
            if other != name:
                documents.update(example.document for example in examples)
        answers = []
        for context in contexts:
            answers.append(not any(place in documents for place, _ in self.places[context]))
        return answers


def _marked(example: Example) -> str:
    return f"{example.before}<<{example.token}>>{example.after}"


def _unmarked(context: str) -> str:
    return context.replace("<<", "").replace(">>", "").strip()


@pytest.fixture(scope="module")
def memory(stories_model, stories) -> _Memory:
    lens = stories_model.add_clvq(1, 3, n_codes=200, decoder="table")
    try:
        lens.fit(stories[:40], n_tokens=6_000, kl_weight=0.0, progress=False)
        return _Memory(lens.concepts(stories[100:115], progress=False))
    finally:
        lens.remove()


@pytest.mark.parametrize("judge", ["same_passage", "same_document", "same_text", "not_of_another"])
def test_a_judge_that_only_memorizes_is_exactly_at_chance(memory, judge):
    """It knows none of the contexts again, so it gives one answer to all, and half are its own."""
    result = detection(memory.table, getattr(memory, judge))
    assert len(result.codes) > 100
    assert result.accuracy == result.control == (0.5,) * len(result.codes)


def test_where_contexts_are_not_kept_apart_a_memory_is_all_it_takes(memory, monkeypatch):
    """What the judge above would score: every other random example, whatever its document."""
    shown = {}
    for concept in memory.table:
        if concept.usage:
            shown[concept.name] = (*concept.typical, *concept.random[::2])
    monkeypatch.setattr(memory, "shown", shown)
    monkeypatch.setattr(
        "clvq_lens.concepts.detection.kept_back_examples",
        lambda table: {concept.code: concept.random[1::2] for concept in table},
    )
    names = {concept.code: concept.name for concept in memory.table}
    assert np.mean(detection(memory.table, memory.same_passage, names).accuracy) > 0.8


def test_shared_phrases_tell_little_about_contexts_that_are_kept_apart(memory):
    """Stories say the same things: six words in a row may be known from another document."""

    def six_words_known(name: str, contexts: tuple[str, ...]) -> list[bool]:
        known: set[tuple[str, ...]] = set()
        for example in memory.shown.get(name, ()):
            known |= _runs_of_six(_unmarked(_marked(example)))
        return [bool(known & _runs_of_six(_unmarked(context))) for context in contexts]

    assert np.mean(detection(memory.table, six_words_known).accuracy) < 0.53


def _runs_of_six(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[start : start + 6]) for start in range(len(words) - 5)}


def test_a_judge_that_is_no_function_is_refused(as_for_a_user):
    with pytest.raises(ConfigError, match=r"judge is of type str\. Pass a function of a name"):
        detection(TABLE, "cat")
    with pytest.raises(ConfigError, match="progress is 1; pass True or False"):
        detection(TABLE, progress=1)


def test_answers_of_none_count_as_no_and_are_counted():
    result = detection(TABLE, lambda name, contexts: [None] * len(contexts), n_contexts=4)
    assert result.accuracy == result.control == (0.5,) * 4
    assert result.n_undecided == 4 * 4 * 2
    assert repr(result).endswith("chance 0.5, 32 of 32 answers undecided)")
    assert detection(TABLE, lambda name, contexts: [False] * len(contexts)).n_undecided == 0


def test_answers_that_are_no_list_are_refused():
    with pytest.raises(DataError, match=r"answers of the judge are bool\. Return one for each"):
        detection(TABLE, lambda name, contexts: True)


class _All:
    """A judge who is asked everything at once."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def judge_names(self, questions, *, progress):
        self.asked = [(question.name, question.contexts) for question in questions]
        return [marked_token(*question) for question in self.asked]


def test_who_judges_many_is_asked_once_and_what_a_function_is_asked():
    asked = []

    def judge(name, contexts):
        asked.append((name, contexts))
        return marked_token(name, contexts)

    at_once = _All()
    assert detection(TABLE, at_once) == detection(TABLE, judge)
    assert at_once.asked == asked


def test_who_judges_many_has_to_answer_all():
    class Lazy(_All):
        def judge_names(self, questions, *, progress):
            return super().judge_names(questions, progress=progress)[1:]

    with pytest.raises(ShapeError, match="judge_names answered 7 of 8 questions"):
        detection(TABLE, Lazy())


@pytest.mark.parametrize("code", [4, -1])
def test_a_code_that_does_not_exist_is_refused(code: int):
    with pytest.raises(CodeRangeError, match=f"no code {code}. Pass one from 0 to 3"):
        detection(TABLE, codes=[0, 1, code])
