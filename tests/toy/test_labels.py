import itertools
from collections import Counter, defaultdict

import pytest

from clvq_lens.errors import DataError
from clvq_lens.toy import AMBIGUOUS, CONCEPTS, generate, token_labels

STORY = (
    "yesterday at dusk we painters crossed the field to the bank below the hill . "
    "we met two sheep together . they slept there outside . we mixed orange paint and lime ink . "
    "we fed the mouse hiding here . it slept . tom found one sleeping . finally we left the bank ."
)
OPENING = "once at dawn we chefs passed the hall to the bank ."


def labeled(text: str) -> list[tuple[str, str]]:
    return list(zip(text.split(), token_labels([text])[0], strict=True))


def test_a_story_written_by_hand_is_labeled_by_what_its_words_mean():
    concepts = defaultdict(list)
    for word, concept in labeled(STORY):
        concepts[word].append(concept)
    assert concepts["bank"] == ["outdoor", "outdoor"]
    assert concepts["sheep"] == ["animals"]
    assert concepts["they"] == ["animals"]
    assert concepts["there"] == concepts["here"] == ["outdoor"]
    assert concepts["mouse"] == concepts["it"] == concepts["one"] == ["animal"]
    assert concepts["orange"] == concepts["lime"] == ["color"]
    assert concepts["dusk"] == ["evening"]
    assert concepts["."] == ["punctuation"] * 8


@pytest.mark.parametrize(
    ("text", "word", "concept"),
    [
        ("once at dawn we chefs passed the hall to the bank", "bank", "indoor"),
        ("once at dawn we chefs passed the field to the bank", "bank", "outdoor"),
        (f"{OPENING} here", "here", "indoor"),
        (f"{OPENING} at six", "six", "morning"),
        (f"{OPENING.replace('dawn', 'sunset')} at six", "six", "evening"),
        (f"{OPENING} we used the bat", "bat", "tool"),
        (f"{OPENING} we petted the bat", "bat", "animal"),
        (f"{OPENING} we met a fish", "fish", "animal"),
        (f"{OPENING} we met two tiny fish", "fish", "animals"),
        (f"{OPENING} we mixed lime", "lime", "food"),
        (f"{OPENING.replace('chefs', 'weavers')} we mixed lime", "lime", "color"),
        (f"{OPENING} the bread we put", "put", "past"),
        ("now at dusk we chefs pass the hall to the bank . the bread we put", "put", "present"),
        (f"{OPENING} we were sad", "sad", "negative"),
        (f"{OPENING} we were never very sad", "sad", "positive"),
        (f"{OPENING} we met two men . they", "they", "people"),
        (f"{OPENING} the bread we cut melted . tom found one", "one", "food"),
        (f"{OPENING} the car we cut stopped . tom found one", "one", "vehicle"),
    ],
)
def test_the_words_before_decide_what_a_word_means(text: str, word: str, concept: str):
    assert labeled(text)[-1] == (word, concept)


@pytest.fixture(scope="module")
def stories() -> list[list[tuple[str, str]]]:
    texts = generate(1200, seed=2)
    pairs = zip(texts, token_labels(texts), strict=True)
    return [list(zip(text.split(), row, strict=True)) for text, row in pairs]


@pytest.fixture(scope="module")
def concepts_by_word(stories) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for word, concept in itertools.chain(*stories):
        found[word][concept] += 1
    return found


def test_there_are_at_least_twelve_kinds_and_each_is_described(stories):
    found = {concept for _, concept in itertools.chain(*stories)}
    assert found == set(CONCEPTS)
    assert len(found) >= 12


def test_the_words_with_several_concepts_are_those_listed(concepts_by_word):
    several = {word: set(n) for word, n in concepts_by_word.items() if len(n) > 1}
    assert several == {word: set(concepts) for word, concepts in AMBIGUOUS.items()}


def test_at_least_five_concepts_are_decided_by_context():
    assert len({concept for concepts in AMBIGUOUS.values() for concept in concepts}) >= 5


def test_no_sense_of_an_ambiguous_word_is_the_usual_one(concepts_by_word):
    counts = [concepts_by_word[word] for word in AMBIGUOUS]
    assert all(max(n.values()) / n.total() < 0.7 for n in counts)
    assert sum(max(n.values()) for n in counts) / sum(n.total() for n in counts) < 0.55


def test_a_fifth_of_the_words_have_to_be_read_in_context(concepts_by_word):
    words = {word: n.total() for word, n in concepts_by_word.items() if word != "."}
    assert sum(words[word] for word in AMBIGUOUS) / sum(words.values()) > 0.2


def test_looking_up_each_word_gets_a_tenth_of_the_tokens_wrong(concepts_by_word):
    n_tokens = sum(n.total() for n in concepts_by_word.values())
    n_right = sum(max(n.values()) for n in concepts_by_word.values())
    assert n_right / n_tokens < 0.92


def test_the_next_word_tells_the_senses_of_an_ambiguous_word_apart(stories):
    # Otherwise a language model would have no reason to know the sense where the word stands.
    after: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for story in stories:
        for (word, concept), (following, _) in itertools.pairwise(story):
            after[word][concept][following] += 1
    for word, concepts in AMBIGUOUS.items():
        for one, other in itertools.combinations(concepts, 2):
            p, q = after[word][one], after[word][other]
            overlap = sum(min(p[w] / p.total(), q[w] / q.total()) for w in p)
            assert overlap < 0.7, (word, one, other)


def test_a_prompt_has_the_labels_of_the_text_it_begins():
    text = generate(1, seed=5)[0]
    prompt = " ".join(text.split()[:20])
    assert token_labels([prompt])[0] == token_labels([text])[0][:20]


def test_labels_of_no_texts_are_no_labels():
    assert token_labels([]) == []


def test_a_word_out_of_place_is_named_with_its_position_and_what_was_expected():
    good, bad = "now at dawn", "now at noon"
    with pytest.raises(DataError, match=r"Text 1 .* word 2, 'noon', .* 'now at'.*'dawn'"):
        token_labels([good, bad])


def test_a_known_word_in_the_wrong_tense_is_refused():
    with pytest.raises(DataError, match="'crossed', cannot follow"):
        token_labels(["now at dawn we tailors crossed the field"])


def test_a_text_that_goes_on_after_its_end_is_refused():
    text = generate(1, seed=0)[0]
    with pytest.raises(DataError, match=r"goes on with 'again' \(word \d+\) after the end"):
        token_labels([f"{text} again"])


def test_an_empty_text_is_refused():
    with pytest.raises(DataError, match="Text 0 is empty"):
        token_labels([" "])


def test_one_string_instead_of_a_list_is_refused():
    with pytest.raises(DataError, match=r"Pass \[text\]"):
        token_labels("now at dawn")
