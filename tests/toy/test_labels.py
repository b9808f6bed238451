from collections import Counter, defaultdict

import pytest

from clvq_lens.errors import DataError
from clvq_lens.toy import AMBIGUOUS, CONCEPTS, generate, labels

STORY = (
    "yesterday at dusk emma the tailor crossed the field to the bank . she met two sheep . "
    "they hid there . she fed the mouse . it slept . ben found one and fed it . "
    "she mixed orange and lime for the sofa . finally she left the bank ."
)


def labelled(text: str) -> list[tuple[str, str]]:
    return list(zip(text.split(), labels([text])[0], strict=True))


def test_a_story_written_by_hand_is_labelled_by_what_its_words_mean():
    concepts = defaultdict(list)
    for word, concept in labelled(STORY):
        concepts[word].append(concept)
    assert concepts["bank"] == ["outdoor", "outdoor"]
    assert concepts["sheep"] == ["animals"]
    assert concepts["they"] == ["animals"]
    assert concepts["there"] == ["outdoor"]
    assert concepts["mouse"] == ["animal"]
    assert concepts["it"] == ["animal", "animal"]
    assert concepts["one"] == ["animal"]
    assert concepts["orange"] == concepts["lime"] == ["colour"]
    assert concepts["dusk"] == ["evening"]
    assert concepts["."] == ["punctuation"] * 8


@pytest.mark.parametrize(
    ("text", "word", "concept"),
    [
        ("once at dawn tom the chef passed the hall to the bank", "bank", "indoor"),
        ("once at dawn tom the chef passed the hall to the pool . here", "here", "indoor"),
        ("once at dawn tom the chef passed the hall to the pool . at six", "six", "morning"),
        ("once at dusk tom the chef passed the hall to the pool . at six", "six", "evening"),
        ("once at dusk tom the chef passed the hall to the pool . he used the bat", "bat", "tool"),
        ("once at dusk tom the chef passed the hall to the pool . he met a fish", "fish", "animal"),
        ("once at dusk tom the chef passed the hall to the pool . he mixed lime", "lime", "food"),
        ("once at dusk tom the chef passed the hall to the pool . he put", "put", "past"),
        ("soon at dusk tom the chef will pass the hall to the pool . he will put", "put", "future"),
        ("once at dusk tom the chef passed the hall to the pool . he was sad", "sad", "negative"),
        (
            "once at dusk tom the chef passed the hall to the pool . he was never very sad",
            "sad",
            "positive",
        ),
        (
            "once at dusk tom the chef passed the hall to the pool . he met two men . they",
            "they",
            "people",
        ),
    ],
)
def test_the_words_before_decide_what_a_word_means(text: str, word: str, concept: str):
    assert labelled(text)[-1] == (word, concept)


def test_there_are_at_least_twelve_kinds_and_each_is_described():
    found = {concept for row in labels(generate(1000, seed=1)) for concept in row}
    assert found == set(CONCEPTS)
    assert len(found) >= 12


@pytest.fixture(scope="module")
def concepts_by_word() -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    texts = generate(4000, seed=2)
    for text, row in zip(texts, labels(texts), strict=True):
        for word, concept in zip(text.split(), row, strict=True):
            found[word][concept] += 1
    return found


def test_the_words_with_several_concepts_are_those_listed(concepts_by_word):
    several = {word: set(n) for word, n in concepts_by_word.items() if len(n) > 1}
    assert several == {word: set(concepts) for word, concepts in AMBIGUOUS.items()}


def test_at_least_five_concepts_are_decided_by_context():
    assert len({concept for concepts in AMBIGUOUS.values() for concept in concepts}) >= 5


def test_no_sense_of_an_ambiguous_word_is_the_usual_one(concepts_by_word):
    for word in AMBIGUOUS:
        n = concepts_by_word[word]
        assert max(n.values()) / n.total() < 0.6, word


def test_a_fifth_of_the_words_have_to_be_read_in_context(concepts_by_word):
    words = {word: n.total() for word, n in concepts_by_word.items() if word not in ".,"}
    assert sum(words[word] for word in AMBIGUOUS) / sum(words.values()) > 0.2


def test_looking_up_each_word_gets_a_tenth_of_the_tokens_wrong(concepts_by_word):
    n_tokens = sum(n.total() for n in concepts_by_word.values())
    n_right = sum(max(n.values()) for n in concepts_by_word.values())
    assert n_right / n_tokens < 0.92


def test_a_prompt_has_the_labels_of_the_text_it_begins():
    text = generate(1, seed=5)[0]
    prompt = " ".join(text.split()[:20])
    assert labels([prompt])[0] == labels([text])[0][:20]


def test_labels_of_no_texts_are_no_labels():
    assert labels([]) == []


def test_a_word_out_of_place_is_named_with_its_position_and_what_was_expected():
    good, bad = "soon at dawn", "soon at noon"
    with pytest.raises(DataError, match=r"Text 1 .* word 2, 'noon', .* 'soon at'.*'dawn'"):
        labels([good, bad])


def test_a_known_word_in_the_wrong_tense_is_refused():
    with pytest.raises(DataError, match="'crossed', cannot follow"):
        labels(["soon at dawn emma the tailor crossed the field"])


def test_a_text_that_goes_on_after_its_end_is_refused():
    text = generate(1, seed=0)[0]
    with pytest.raises(DataError, match=r"goes on with 'again' \(word \d+\) after the end"):
        labels([f"{text} again"])


def test_an_empty_text_is_refused():
    with pytest.raises(DataError, match="Text 0 is empty"):
        labels([" "])


def test_one_string_instead_of_a_list_is_refused():
    with pytest.raises(DataError, match=r"Pass \[text\]"):
        labels("soon at dawn")
