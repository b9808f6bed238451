"""Every prompt that a judge is given, and how its answers are read.

An answer is kept under its prompt, so whatever changes here is asked anew.
"""

import re
from collections.abc import Sequence

import numpy as np

from clvq_lens.concepts.asking import marked
from clvq_lens.concepts.concept import Example

NAME_TOKENS = 24  # a few words
VERDICT_TOKENS = 6  # a yes or a no, and what a model puts around it
_MOST_EXAMPLES = 12  # more make the prompt longer, and names hardly better
_MOST_CHARACTERS = 80  # of a name
_AROUND_NAMES = " \"'`*.\u201c\u201d"
_ITEM = re.compile(r"([-*\u2022]|\d+[.)])\s+")  # the beginning of an item of a list

# Small models answer the question below with it, whatever they were asked to answer with.
_STATEMENT = re.compile(
    r"\W*(?:the|this)(?: marked)? token is (?:(?P<not>not)\b|an example\b)", re.IGNORECASE
)

_NAMING = """\
Each passage below has one token marked like <<this>>. All marked tokens have something in common: \
a word, a meaning, a part of speech, or the situation in which they stand.

{passages}

What do the marked tokens have in common? Answer with a name of at most six words, and nothing \
else."""

_JUDGING = """\
One token is marked like <<this>> in the passage below.

Passage: {context}

Is the marked token an example of "{name}"? Answer with one word, Yes or No."""


def naming_prompt(examples: Sequence[Example]) -> str:
    """What a judge is asked that has to name a code.

    Args:
        examples: Examples of the code, of which at most twelve are shown.
    """
    # Spread over all: typical ones come first and random ones last, and both should be seen.
    n_shown = min(len(examples), _MOST_EXAMPLES)
    lines: list[str] = []
    for index in np.linspace(0, len(examples) - 1, n_shown).round().astype(int):
        lines.append(f"- {_in_one_line(marked(examples[index]))}")
    return _NAMING.format(passages="\n".join(lines))


def judging_prompt(name: str, context: str) -> str:
    """What a judge is asked that has to say whether a marked token belongs to a name."""
    return _JUDGING.format(name=_in_one_line(name), context=_in_one_line(context))


def read_name(answer: str) -> str:
    """The name in an answer: its first line, without quotes and without a full stop.

    A line that only introduces what follows, and ends with a colon, is passed over. Of a list, the
    different items.

    Example:
        >>> read_name('Name: "Kinds of fruit".')
        'Kinds of fruit'
        >>> read_name("The marked tokens are:\\n- apple\\n- pear\\n- apple")
        'apple, pear'
    """
    lines = [line.strip() for line in _without_thoughts(answer).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].strip(_AROUND_NAMES).endswith(":"):
        lines = lines[1:]
    if not lines:
        return ""
    name = _listed(lines) or lines[0]
    name = re.sub(r"^(name|answer)\s*:\s*", "", name, flags=re.IGNORECASE)
    name = name.encode(errors="replace").decode()  # a server may cut a character in two
    return name.strip(_AROUND_NAMES)[:_MOST_CHARACTERS].strip()


def _listed(lines: Sequence[str]) -> str:
    """The different items of the list that some lines begin with; nothing if they do not."""
    items: dict[str, None] = {}
    for line in lines:
        item = _ITEM.match(line)
        if item is None:
            break
        items[line[item.end() :].strip(_AROUND_NAMES)] = None
    return ", ".join(filter(None, items))


def read_verdict(answer: str) -> bool | None:
    """Whether an answer begins with yes or with no, or says the question again as a statement.

    Returns:
        None if it does neither.

    Example:
        >>> read_verdict("**Yes**, it is."), read_verdict("no"), read_verdict("Nothing is marked.")
        (True, False, None)
    """
    answer = _without_thoughts(answer)
    first = re.match(r"[\W_]*(yes|no)(?![a-z])", answer, flags=re.IGNORECASE)
    if first is not None:
        return first.group(1).lower() == "yes"
    said = _STATEMENT.match(answer)
    return None if said is None else said.group("not") is None


def _without_thoughts(answer: str) -> str:
    """An answer without what a reasoning model says to itself before it."""
    return answer.rsplit("</think>", 1)[-1]


def _in_one_line(text: str) -> str:
    # A line break in a passage would look like the end of it.
    return text.replace("\r", "").replace("\n", "\u21b5")
