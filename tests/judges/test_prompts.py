import pytest

from clvq_lens.concepts.concept import Example
from clvq_lens.judges.prompts import judging_prompt, naming_prompt, read_name, read_verdict


def example(number: int, before: str = "a ", after: str = " end") -> Example:
    return Example(number, 1, f"{before}{number} ", "cat", after, 0.0, 0.0)


def test_a_prompt_for_a_name_shows_marked_passages_one_a_line():
    prompt = naming_prompt([example(0), example(1, after="\nnext\r\nline")])
    passages = [line for line in prompt.splitlines() if line.startswith("- ")]
    assert passages == ["- a 0 <<cat>> end", "- a 1 <<cat>>\u21b5next\u21b5line"]


def test_of_many_examples_twelve_are_shown_from_the_first_to_the_last():
    prompt = naming_prompt([example(number) for number in range(40)])
    passages = [line for line in prompt.splitlines() if line.startswith("- ")]
    assert len(passages) == len(set(passages)) == 12
    assert passages[0].startswith("- a 0 ")
    assert passages[-1].startswith("- a 39 ")


def test_a_prompt_for_a_verdict_holds_the_name_and_the_context_as_they_are():
    prompt = judging_prompt("sets {like} this\nand that", "x {0} <<y>>\nz")
    assert '"sets {like} this\u21b5and that"' in prompt
    assert "Passage: x {0} <<y>>\u21b5z\n" in prompt


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("kinds of fruit", "kinds of fruit"),
        ('Name: "Kinds of fruit".\nThey all grow.', "Kinds of fruit"),
        ("\n\n**Animals**", "Animals"),
        ("<think>cats, dogs...\n</think>\n\nPets", "Pets"),
        ("x" * 200, "x" * 80),
        ("half \ud83d", "half ?"),
        ("", ""),
        (' " ', ""),
        ("Name:", ""),
        ("**Name:**\n\nFruit\nThey grow.", "Fruit"),
        ('The marked tokens are:\n- dry\n-  "wet"\n- dry\n- ', "dry, wet"),
        ("1. Fruit\n2) Trees\nAll of them grow.", "Fruit, Trees"),
        ("- well-known\n-5 degrees", "well-known"),
    ],
)
def test_a_name_is_the_first_line_of_an_answer(answer: str, name: str):
    assert read_name(answer) == name


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("Yes", True),
        ("no.", False),
        ("**YES**, it is.", True),
        (" \n_No_", False),
        ("<think>No? Yes.</think>\nYes", True),
        ("The marked token is an example", True),
        ("The token is an example of", True),
        ("This token is not an", False),
        ('The marked token is "por', None),
        ("Nothing is marked.", None),
        ("I say yes", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_a_verdict_is_how_an_answer_begins(answer: str, verdict: bool | None):
    assert read_verdict(answer) is verdict
