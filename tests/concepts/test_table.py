from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from clvq_lens.concepts.concept import Concept, Counted, Example, Neighbor, TokenLogit, Unembedded
from clvq_lens.concepts.table import ConceptTable, distinctive_tokens
from clvq_lens.errors import CodeRangeError, ConfigError, ShapeError
from clvq_lens.stats.agreement import Agreement


def example(token: str = "cat", document: int = 0) -> Example:
    return Example(document, 3, "the ", token, " sat", 0.5, 1.5)


def concept(code: int = 0, usage: int = 10, word: str = "cat") -> Concept:
    said = Unembedded((TokenLogit(f"{word}s", 2.5),), (TokenLogit("the", -1.5),))
    return Concept(
        code=code,
        name="",
        usage=usage,
        share=usage / 100,
        tokens=(Counted(word, 7, 0.7, 2.0), Counted(f"{word}x", 3, 0.3, 9.0)),
        distinctive=(Counted(f"{word}x", 3, 0.3, 9.0), Counted(word, 7, 0.7, 2.0)),
        typical=(example(f"{word}-typical"),),
        borderline=(example(f"{word}-borderline"),),
        random=tuple(example(f"{word}-random{i}", document=i) for i in range(4)),
        at_target=said,
        direct=None,
        token_entropy=0.6,
        position_entropy=1.2,
        nearest=(Neighbor(1, 4.0),),
        token_labels=(Counted("NOUN", 9, 0.9, 5.0),),
    )


EMPTY = replace(
    concept(2, 0), tokens=(), distinctive=(), typical=(), borderline=(), random=(),
    at_target=None, token_labels=(),
)  # fmt: skip
AGREEMENT = Agreement(30, 2, 2, 0.45, 0.5, 0.1, 0.8, 0.6)
TABLE = ConceptTable((concept(0, 10), concept(1, 20, "dog"), EMPTY), 30, 1.0, 2.0, AGREEMENT)


def test_a_code_is_looked_up_by_its_number():
    assert TABLE[1].usage == 20
    assert [c.code for c in TABLE] == [0, 1, 2]
    assert len(TABLE) == 3


@pytest.mark.parametrize("code", [3, 999, -1])
def test_a_code_that_does_not_exist_is_refused(code: int):
    with pytest.raises(CodeRangeError, match=f"no code {code}. Pass one from 0 to 2"):
        TABLE[code]


def test_the_frame_lists_codes_by_usage():
    frame = TABLE.frame()
    assert frame["code"].tolist() == [1, 0, 2]
    assert frame["usage"].tolist() == [20, 10, 0]
    assert frame["tokens"].tolist() == ["dog dogx", "cat catx", ""]
    assert frame["distinctive"].tolist() == ["dogx dog", "catx cat", ""]
    assert frame["promotes"].tolist() == ["dogs", "cats", ""]
    assert frame["top_label"].tolist() == ["NOUN", "NOUN", ""]
    assert frame["example"][0] == "the [dog-typical] sat"


def test_without_labels_the_frame_has_no_column_for_them():
    assert "top_label" not in replace(TABLE, agreement=None).frame()


def test_parquet_keeps_everything(tmp_path: Path):
    path = TABLE.to_parquet(tmp_path / "concepts.parquet")
    back = pd.read_parquet(path)
    assert back["code"].tolist() == [0, 1, 2]
    assert back["tokens"][0][1] == {"text": "catx", "count": 3, "share": 0.3, "lift": 9.0}
    assert [e["token"] for e in back["random"][1]] == [f"dog-random{i}" for i in range(4)]
    assert back["at_target"][0]["promoted"][0] == {"token": "cats", "logit": 2.5}
    assert back["at_target"][2] is None


def test_a_code_is_called_by_its_name_or_its_commonest_tokens():
    assert TABLE.names() == {0: "cat catx", 1: "dog dogx", 2: ""}
    assert TABLE[0].named("felines").title == "felines"


def test_marks_and_white_space_are_written_out_in_names():
    tokens = tuple(Counted(text, 2, 0.2, 1.0) for text in (",", " the", "\n"))
    assert replace(concept(), tokens=tokens).title == "comma the \u21b5"
    assert distinctive_tokens(replace(concept(), distinctive=tokens)) == "comma the \u21b5"


def test_what_few_tokens_promote_is_left_out_and_otherwise_says_how_many_they_are():
    assert "mean of 10 tokens" in TABLE[0]._repr_html_()
    rare = replace(TABLE[0], usage=9)
    assert rare.read_out is None
    assert "mean of" not in rare._repr_html_()
    assert replace(TABLE, concepts=(rare,)).frame()["promotes"].tolist() == [""]


def test_a_function_of_examples_names_every_code_in_use():
    seen = []

    def name(examples):
        seen.append([e.token for e in examples])
        return f"{len(examples)} examples of {examples[0].token}"

    named = TABLE.named(name)
    assert named.names()[1] == "3 examples of dog-typical"
    assert named[2].name == ""  # nothing to name
    assert TABLE[1].name == ""  # the table itself stays as it was
    assert seen[0] == [
        "cat-typical",
        "cat-random0",
        "cat-random3",
    ]  # documents 1 and 2 are kept back


def test_a_code_of_which_no_example_may_be_shown_is_named_by_its_tokens():
    hidden = replace(concept(), typical=(), random=(example(document=1),))
    table = replace(TABLE, concepts=(hidden, TABLE[1]))
    named = table.named(lambda examples: f"named by {len(examples)}")
    assert named.names() == {0: "catx cat", 1: "named by 3"}


class _NamesAll:
    """Whoever names codes all at once."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def name_codes(self, examples, *, progress):
        self.seen = [[e.token for e in of_code] for of_code in examples]
        return self.names


def test_who_names_many_is_asked_once_and_sees_what_a_function_sees():
    seen = []
    TABLE.named(lambda examples: seen.append([e.token for e in examples]))
    at_once = _NamesAll("felines", "canines")
    named = TABLE.named(at_once)
    assert [concept.name for concept in named] == ["felines", "canines", ""]
    assert at_once.seen == seen


def test_who_names_many_has_to_name_all():
    with pytest.raises(ShapeError, match="name_codes gave 1 names for 2 codes"):
        TABLE.named(_NamesAll("felines"))


def test_who_cannot_name_is_refused(as_for_a_user):
    with pytest.raises(ConfigError, match=r"name is of type str\. Pass a function of examples, or"):
        TABLE.named("felines")
    with pytest.raises(ConfigError, match="progress is 'no'; pass True or False"):
        TABLE.named(progress="no")


def test_the_built_in_name_is_made_of_the_most_distinctive_tokens():
    assert TABLE.named().names() == {0: "catx cat", 1: "dogx dog", 2: ""}
    assert distinctive_tokens(replace(concept(), distinctive=())) == "cat catx"


def test_a_representation_is_short():
    assert repr(TABLE) == "ConceptTable(2 of 3 codes in use, 30 tokens)"
    interrupted = replace(TABLE, complete=False)
    assert repr(interrupted) == "ConceptTable(2 of 3 codes in use, 30 tokens, interrupted)"
    assert repr(TABLE[0]) == "Concept(0: 'cat catx', 10 tokens, 10.00%)"


def test_a_concept_in_a_notebook_shows_what_is_known_of_it():
    html = TABLE[0]._repr_html_()
    for piece in (
        "code 0",
        "10 tokens",
        "cat 7",
        "catx \u00d79",
        "NOUN 90%",
        "cats +2.5",
        "the -1.5",
    ):
        assert piece in html, piece
    assert "<mark>cat-typical</mark>" in html
    assert "<mark>cat-borderline</mark>" in html
    assert "directly" not in html
    assert "None" not in EMPTY._repr_html_()


def test_a_concept_in_a_terminal_says_the_same():
    lines = str(TABLE[0]).splitlines()
    assert lines[:2] == ["code 0 cat catx", "10 tokens, 10.00% of all"]
    assert "commonest: cat 7 \u00b7 catx 3" in lines
    assert "labels: NOUN 90%" in lines
    assert lines[lines.index("typical:") + 1].strip() == str(TABLE[0].typical[0]).strip()
    broken = replace(TABLE[0], typical=(Example(0, 1, "a\n", "b", "\nc", 0.0, 0.0),))
    assert "  a\u21b5[b]\u21b5c" in str(broken).splitlines()
    assert str(EMPTY).splitlines() == ["code 2", "0 tokens, 0.00% of all", "nearest codes: 1"]


def test_a_table_in_a_notebook_shows_the_ten_most_used_codes():
    table = ConceptTable(tuple(concept(code, usage=code + 1) for code in range(12)), 78, 1.0, 1.0)
    html = table._repr_html_()
    assert "12 of 12 codes in use, 78 tokens" in html
    assert html.count("<tr") == 11
    assert "2 more rows" in html


BAD = "<script>alert('1')</script>\"&"


def test_text_from_data_is_escaped_in_html():
    hostile = replace(
        concept(),
        name=BAD,
        tokens=(Counted(BAD, 1, 1.0, 1.0),),
        distinctive=(Counted(BAD, 1, 1.0, 1.0),),
        token_labels=(Counted(BAD, 1, 1.0, 1.0),),
        random=(Example(0, 1, BAD, BAD, BAD, 0.0, 0.0),),
        at_target=Unembedded((TokenLogit(BAD, 1.0),), ()),
    )
    for html in (hostile._repr_html_(), replace(TABLE, concepts=(hostile,))._repr_html_()):
        assert "<script" not in html
        assert "&lt;script&gt;" in html


def test_the_picture_is_the_usage_curve():
    figure = TABLE.plot()
    assert list(figure.data[0].y) == [20 / 30, 10 / 30]
    assert figure.data[0].name == "codes in use (2)"
