"""Parts of sentences that several kinds of sentence share."""

from dataclasses import dataclass
from functools import cache

from clvq_lens.toy import lexicon
from clvq_lens.toy.slots import Option, Slot, Steps, one_of, say, share, slot

HOMOGRAPH_SHARE = 0.9  # part of the nouns, where a homograph is possible
DESCRIBED_SHARE = 0.25  # part of the nouns that may have an adjective
EXTRA_SHARE = 0.5  # part of the places where a word may be put in
SIGHT_CONCEPTS = {"outdoor": "plant", "indoor": "furniture"}


@dataclass(frozen=True)
class Scene:
    """What the opening of a story settles for the rest of it."""

    trade: str  # "food" or "color": what "orange" means to these people
    tense: str  # "past" or "present"
    daytime: str  # "morning" or "evening"
    surroundings: str  # "outdoor" or "indoor"
    place: str


def plural(verbs: tuple[lexicon.Verb, ...], tense: str) -> lexicon.Words:
    """The verbs as they are written after "we" or "they"."""
    return tuple(verb.past if tense == "past" else verb.base for verb in verbs)


def singular(verbs: tuple[lexicon.Verb, ...], tense: str) -> lexicon.Words:
    """The verbs as they are written after "it" or a name."""
    return tuple(verb.past if tense == "past" else verb.third for verb in verbs)


@cache
def nouns(kinds: tuple[str, ...], homographs: lexicon.Words, described: bool) -> Slot:
    """Nouns, the kinds equally likely, mostly homographs; adjectives unless ``described``."""
    plain = {**lexicon.THINGS, **lexicon.PLURALS, **lexicon.SIGHTS}
    groups: list[list[Option]] = []
    for kind in kinds:
        concept = SIGHT_CONCEPTS.get(kind, kind)
        unclear = [word for word in homographs if kind in lexicon.AMBIGUOUS[word]]
        unclear_share = HOMOGRAPH_SHARE if unclear else 0.0
        groups.append(share(plain[kind], concept, 1 - unclear_share, kind))
        groups.append(share(unclear, concept, unclear_share, kind))
    if not described:
        weight = len(kinds) * DESCRIBED_SHARE / (1 - DESCRIBED_SHARE)
        groups.append(share(lexicon.SIZES, "size", weight / 2, "adjective"))
        groups.append(share(lexicon.COLORS, "color", weight / 2, "adjective"))
    return slot(*groups)


def noun(kinds: tuple[str, ...], homographs: lexicon.Words = ()) -> Steps[str]:
    """A noun of one of the kinds, perhaps with an adjective; returns the kind."""
    chosen = yield nouns(kinds, homographs, False)
    if chosen.leads == "adjective":
        chosen = yield nouns(kinds, homographs, True)
    return chosen.leads


def event(scene: Scene, kind: str) -> Steps[None]:
    """What "it" or "they" did: only the kind of what they stand for tells."""
    concept, verbs = lexicon.EVENTS[kind]
    many = kind in lexicon.PLURALS
    yield from say("they" if many else "it", kind)
    yield one_of((plural if many else singular)(verbs, scene.tense), concept)
    yield from end(scene)


@cache
def participles(kind: str) -> Slot:
    """What a thing of this kind may be found doing."""
    concept, verbs = lexicon.EVENTS[kind]
    return slot(share((verb.participle for verb in verbs), concept))


@cache
def ends(surroundings: str) -> Slot:
    """The sentence ends, or says first where it was."""
    return slot(share(["."], "punctuation", 0.35), share(["here", "there"], surroundings, 0.65))


@cache
def maybe(word: str, concept: str, extra: tuple[str, ...], extra_concept: str) -> Slot:
    """Go on with ``word``, or put one of the extra words before it."""
    return slot(
        share([word], concept, 1 - EXTRA_SHARE), share(extra, extra_concept, EXTRA_SHARE, "extra")
    )


def full_stop(scene: Scene) -> Steps[None]:
    """A full stop, perhaps with "outside" or "indoors" before it."""
    words = lexicon.OPEN_OR_NOT[scene.surroundings]
    chosen = yield maybe(".", "punctuation", words, scene.surroundings)
    if chosen.leads == "extra":
        yield from say(".", "punctuation")


def end(scene: Scene) -> Steps[None]:
    """A full stop, perhaps with "there" or "there outside" before it."""
    chosen = yield ends(scene.surroundings)
    if chosen.word != ".":
        yield from full_stop(scene)
