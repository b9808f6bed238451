from dataclasses import replace

import numpy as np
import pytest

import clvq_lens as cl
from clvq_lens.concepts.concept import Concept, Example
from clvq_lens.concepts.detection import Detection, detection, marked_token
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
        own = [context.startswith(f"{code}.") for context in contexts]
        orders.add(tuple(own))
        assert sum(own) == 4
        for context in contexts:
            assert int(context.split(".")[1].split()[0]) % 2 == 1  # kept back from named()
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


def test_the_built_in_judge_looks_at_the_marked_token_only():
    assert marked_token("<< cat", ["a <<cat>> dog", "cat <<dog>>", "<< <<<< >>"]) == [
        True, False, False,
    ]  # fmt: skip


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


def test_a_judge_that_is_no_function_is_refused(as_for_a_user):
    with pytest.raises(ConfigError, match=r"judge is of type str\. Pass a function of a name"):
        detection(TABLE, "cat")


@pytest.mark.parametrize("code", [4, -1])
def test_a_code_that_does_not_exist_is_refused(code: int):
    with pytest.raises(CodeRangeError, match=f"no code {code}. Pass one from 0 to 3"):
        detection(TABLE, codes=[0, 1, code])
