"""The grammar of the toy world: a story as a sequence of choices, each revealed by its word.

``story()`` is a coroutine: it yields a ``Slot`` (the words that may come next, with probability
and concept) and is sent the ``Option`` that was taken. Whoever drives it decides whether options
are drawn (generation) or looked up in a text (labels, probabilities). No two options of a slot
share a word, so a text has one derivation and its probability is a product.

Things that one learns early decide what words mean later:

    yesterday at dusk emma the tailor crossed the field to the bank .
    she met two sheep . they hid there . she mixed orange and lime for the sofa .
    she fed the mouse . it slept . finally she left the bank .
"""

from functools import cache

from clvq_lens.toy import lexicon
from clvq_lens.toy.episodes import act, clock, friend, sight
from clvq_lens.toy.phrases import HOMOGRAPH_SHARE, Scene, verb
from clvq_lens.toy.slots import Slot, Steps, say, share, slot

MIN_EPISODES, MAX_EPISODES = 2, 3
FRIEND_SHARE = 0.35  # of the sentences after something that a friend may want too


def story() -> Steps[None]:
    """A whole story: an opening, two or three episodes, a closing."""
    scene = yield from opening()
    n_episodes = 0
    kind = ""  # of the last thing, if a friend can have one too
    while True:
        first = yield openers(scene.name, scene.pronoun, scene.surroundings, n_episodes, kind)
        if first.leads == "close":
            yield from closing(scene)
            return
        if first.leads == "friend":
            kind = yield from friend(scene, kind)
        elif first.leads == "sight":
            kind = yield from sight(scene)
        elif first.leads == "clock":
            kind = yield from clock(scene)
        else:
            kind = yield from act(scene)
        n_episodes += first.leads != "friend"


@cache
def openers(name: str, pronoun: str, surroundings: str, n_episodes: int, kind: str) -> Slot:
    """The first word of a sentence, which says what kind of sentence it is."""
    others = [other for names in lexicon.NAMES.values() for other in names if other != name]
    friend_share = FRIEND_SHARE if kind else 0.0
    more = {MIN_EPISODES: 0.5, MAX_EPISODES: 0.0}.get(n_episodes, 1.0) * (1 - friend_share)
    return slot(
        share(others, "person", friend_share, "friend"),
        share(["there", "here"], surroundings, 0.16 * more, "sight"),
        share(["at"], "preposition", 0.12 * more, "clock"),
        share([pronoun], "person", 0.72 * more, "act"),
        share(["finally"], "connective", 1 - friend_share - more, "close"),
    )


@cache
def branches(table: str) -> Slot:
    """The words of a table of the lexicon; the branch is the key, and the concept unless given."""
    concept = {"NAMES": "person", "TRADES": "profession"}.get(table, "")
    words: dict[str, lexicon.Words] = getattr(lexicon, table)
    return slot(*(share(group, concept or key, 1.0, key) for key, group in words.items()))


@cache
def places(surroundings: str) -> Slot:
    """Where the way leads; the way has shown whether "bank" is a river's."""
    return slot(
        share(lexicon.PLACE_HOMOGRAPHS, surroundings, HOMOGRAPH_SHARE),
        share(lexicon.PLACES[surroundings], surroundings, 1 - HOMOGRAPH_SHARE),
    )


def opening() -> Steps[Scene]:
    """When, who, and where to."""
    tense = (yield branches("DAYS")).leads
    yield from say("at", "preposition")
    daytime = (yield branches("DAYPARTS")).leads
    name = yield branches("NAMES")
    yield from say("the", "article")
    trade = (yield branches("TRADES")).leads
    yield from verb(lexicon.MOTIONS, "motion", tense)
    yield from say("the", "article")
    surroundings = (yield branches("WAYS")).leads
    yield from say("to", "preposition")
    yield from say("the", "article")
    place = (yield places(surroundings)).word
    yield from say(".", "punctuation")
    return Scene(name.word, name.leads, trade, tense, daytime, surroundings, place)


def closing(scene: Scene) -> Steps[None]:
    """The person leaves the place where the story happened."""
    yield from say(scene.pronoun, "person")
    yield from verb((("left", "leave"),), scene.tense, scene.tense)
    yield from say("the", "article")
    yield from say(scene.place, scene.surroundings)
    yield from say(".", "punctuation")
