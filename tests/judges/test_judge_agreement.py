import json

import numpy as np
import pytest

import clvq_lens as cl
from clvq_lens.concepts.detection import Detection, detection
from clvq_lens.errors import ConfigError, DataError
from clvq_lens.judges.judge_agreement import agreement
from clvq_lens.stats.concordance import kendall_w
from tests.concepts.test_detection import TABLE

N = 12


def found(accuracy, control=None, codes=range(N)) -> Detection:
    codes = tuple(codes)
    control = [0.5] * len(codes) if control is None else control
    names = tuple(f"name {code}" for code in codes)
    return Detection(codes, names, (20,) * len(codes), tuple(accuracy), tuple(control))


UP = np.linspace(0.4, 1.0, N).tolist()


def test_judges_who_agree_are_told_from_their_null():
    result = agreement({"a": found(UP), "b": found(UP), "c": found(UP)})
    frame = result.frame().set_index("names")
    own = frame.loc["own"]
    assert own["kendall_w"] == pytest.approx(1.0)
    assert own["null_mean"] == pytest.approx(1 / 3, abs=0.02)
    assert own["null_low"] < 1 / 3 < own["null_high"] < 1
    assert own["p"] == 1 / 2_001
    assert (own["n_judges"], own["n_codes"]) == (3, N)
    assert np.isnan(frame.loc["of another code", "kendall_w"])  # all the same: no order


def test_what_judges_share_with_wrong_names_stands_beside():
    random = np.random.default_rng(0)
    judges = {name: found(random.random(N).tolist(), UP) for name in "abc"}
    own, control = agreement(judges).frame()["kendall_w"]
    assert control == pytest.approx(1.0)
    scores = [list(judge.accuracy) for judge in judges.values()]
    assert own == pytest.approx(kendall_w(np.array(scores)))


def test_only_codes_that_all_of_them_judged_count():
    first = found(UP)
    second = found(UP[::-1][:8], codes=range(11, 3, -1))
    result = agreement({"a": first, "b": second})
    assert result.codes == tuple(range(4, 12))
    assert result.own.w == pytest.approx(1.0)  # the order of codes differs, that of scores not
    scores = result.scores()
    assert list(scores) == ["code", "a", "b"]
    assert scores["a"].tolist() == scores["b"].tolist() == UP[4:]


def test_the_seed_decides_the_null():
    judges = {"a": found(UP), "b": found(UP[::-1])}
    same = [agreement(judges, n_draws=50, seed=seed).own for seed in (0, 0, 1)]
    assert same[0] == same[1] != same[2]


def test_it_shows_itself_in_one_line_and_escapes_names_in_html():
    result = agreement({"<b>a</b>": found(UP), "b": found(UP)}, n_draws=99)
    assert repr(result).startswith("JudgeAgreement(2 judges, 12 codes, Kendall's W 1, by chance 0.")
    assert "(p = 0.01)" in repr(result)
    assert "<b>a" not in result._repr_html_()


def test_the_picture_shows_w_beside_its_null():
    figure = agreement({"a": found(UP), "b": found(UP)}, n_draws=99).plot()
    drawn = {trace.name: trace for trace in figure.data}
    assert list(drawn["Kendall's W"].y) == ["own", "of another code"]
    assert drawn["Kendall's W"].x[0] == pytest.approx(1.0)
    assert json.loads(figure.to_json())


def test_detections_of_a_table_by_several_judges_agree_on_what_is_told():
    guess = np.random.default_rng(0)
    judges = {
        "words": None,
        "yes to all": lambda name, contexts: [True] * len(contexts),
        "coin": lambda name, contexts: (guess.random(len(contexts)) < 0.5).tolist(),
    }
    judged = {name: detection(TABLE, judge) for name, judge in judges.items()}
    result = cl.judges.agreement(judged, n_draws=99)
    assert result.judges == ("words", "yes to all", "coin")
    assert 0 <= result.own.w <= 1


def test_one_judge_cannot_agree():
    with pytest.raises(ConfigError, match=r"1 judges cannot agree\. Pass two at least\."):
        agreement({"a": found(UP)})


def test_too_few_codes_in_common_are_refused():
    second = found(UP[:2], codes=[0, 1])
    with pytest.raises(DataError, match=r"2 codes were judged by all 2 judges.*of one table"):
        agreement({"a": found(UP), "b": second})


def test_something_else_is_refused(as_for_a_user):
    with pytest.raises(ConfigError, match=r"detections is of type list\. Pass {name: detection"):
        agreement([found(UP)])
    with pytest.raises(ConfigError, match="A detection is of type float"):
        agreement({"a": 0.5, "b": 0.5})
    with pytest.raises(ConfigError, match="n_draws is 0"):
        agreement({"a": found(UP), "b": found(UP)}, n_draws=0)
    with pytest.raises(ConfigError, match="seed is -1"):
        agreement({"a": found(UP), "b": found(UP)}, seed=-1)
