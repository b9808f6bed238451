"""The grammar of the toy world: a story as a sequence of choices, each revealed by its word.

``story()`` is a coroutine: it yields a ``Slot`` (the words that may come next, with probability
and concept) and is sent the ``Option`` that was taken. Whoever drives it decides whether options
are drawn (generation) or looked up in a text (labels, probabilities). No two options of a slot
share a word, so a text has one derivation and its probability is a product.

Things that one learns early decide what words mean later:

    yesterday at dusk we painters crossed the field to the bank below the hill .
    we met two sheep together . they slept there outside . we mixed orange paint and lime ink .
    we fed the mouse hiding here . it slept . tom found one sleeping . finally we left the bank .

What comes right after an ambiguous word depends on what it means ("below the hill" is not said of
a bank that lends money), so a model that predicts the next word has to know the meaning there and
then, and cannot put it off to the place where it looks back.
"""

from functools import cache

from clvq_lens.toy import lexicon
from clvq_lens.toy.episodes import act, clock, friend, handle, sight
from clvq_lens.toy.phrases import HOMOGRAPH_SHARE, Scene, full_stop, maybe, plural
from clvq_lens.toy.slots import Slot, Steps, one_of, say, share, slot

MIN_EPISODES, MAX_EPISODES = 2, 4
FRIEND_SHARE = 0.4  # part of the sentences after something that a friend may find too


def story() -> Steps[None]:
    """A whole story: an opening, a few episodes, a closing."""
    scene = yield from opening()
    n_episodes = 0
    kind = ""  # kind of the last thing, if a friend can have one too
    while True:
        first = yield openers(scene.surroundings, n_episodes, kind)
        if first.leads == "close":
            yield from closing(scene)
            return
        if first.leads == "friend":
            kind = yield from friend(scene, kind)
        elif first.leads == "sight":
            kind = yield from sight(scene)
        elif first.leads == "clock":
            kind = yield from clock(scene)
        elif first.leads == "handle":
            kind = yield from handle(scene)
        else:
            kind = yield from act(scene)
        if first.leads != "friend":  # a second sentence on the same thing
            n_episodes += 1


@cache
def openers(surroundings: str, n_episodes: int, kind: str) -> Slot:
    """The first word of a sentence, which says what kind of sentence it is."""
    friend_share = FRIEND_SHARE if kind else 0.0
    close = 0.0
    if n_episodes >= MIN_EPISODES:
        close = 0.4
    if n_episodes == MAX_EPISODES:
        close = 1.0
    close_share = (1 - friend_share) * close
    more = 1 - friend_share - close_share
    return slot(
        share(lexicon.NAMES, "person", friend_share, "friend"),
        share(["there", "here"], surroundings, 0.12 * more, "sight"),
        share(["at"], "preposition", 0.12 * more, "clock"),
        share(["the"], "article", 0.17 * more, "handle"),
        share(["we"], "person", 0.6 * more, "act"),
        share(["finally"], "connective", close_share, "close"),
    )


@cache
def branches(table: str) -> Slot:
    """The words of a table of the lexicon; its keys are the branches of the story."""
    concept = "profession" if table == "TRADES" else ""  # bakers are not food
    branching: dict[str, lexicon.Words] = getattr(lexicon, table)
    groups = []
    for key, words in branching.items():
        groups.append(share(words, concept or key, 1.0, key))
    return slot(*groups)


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
    yield from say("we", "person")
    trade = (yield branches("TRADES")).leads
    yield one_of(plural(lexicon.MOVE, tense), "motion")
    yield from say("the", "article")
    surroundings = (yield branches("WAYS")).leads
    yield from say("to", "preposition")
    yield from say("the", "article")
    place = (yield places(surroundings)).word
    near = yield maybe(".", "punctuation", lexicon.POSITIONS[surroundings], "preposition")
    if near.leads == "extra":
        yield from say("the", "article")
        yield one_of(lexicon.PLACES[surroundings], surroundings)
        yield from say(".", "punctuation")
    return Scene(trade, tense, daytime, surroundings, place)


def closing(scene: Scene) -> Steps[None]:
    """We leave the place where the story happened."""
    yield from say("we", "person")
    yield one_of(plural(lexicon.LEAVE, scene.tense), scene.tense)
    yield from say("the", "article")
    yield from say(scene.place, scene.surroundings)
    yield from full_stop(scene)
