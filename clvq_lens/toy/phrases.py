"""Parts of sentences that several kinds of sentence share."""

from dataclasses import dataclass
from functools import cache

from clvq_lens.toy import lexicon
from clvq_lens.toy.slots import Option, Slot, Steps, one_of, say, share, slot

HOMOGRAPH_SHARE = 0.85  # of the nouns, where a homograph is possible
DESCRIBED_SHARE = 0.3  # of the nouns that may have an adjective


@dataclass(frozen=True)
class Scene:
    """What the opening of a story settles for the rest of it."""

    name: str
    pronoun: str
    trade: str  # "food" or "colour": what "orange" means to this person
    tense: str  # "past" or "future"
    daytime: str  # "morning" or "evening"
    surroundings: str  # "outdoor" or "indoor"
    place: str


def forms(verbs: lexicon.Verbs, tense: str) -> tuple[str, ...]:
    """The verbs as they are written after "she" (past) or after "will" (future)."""
    return tuple(past if tense == "past" else base for past, base in verbs)


def verb(verbs: lexicon.Verbs, concept: str, tense: str) -> Steps[None]:
    """A verb of which the tense can be seen."""
    if tense == "future":
        yield from say("will", "future")
    yield one_of(forms(verbs, tense), concept)


@cache
def nouns(kinds: tuple[str, ...], homographs: lexicon.Words, described: bool) -> Slot:
    """Nouns, the kinds equally likely, mostly homographs; adjectives unless ``described``."""
    plain = {**lexicon.THINGS, **lexicon.PLURALS, **lexicon.SIGHTS}
    groups: list[list[Option]] = []
    for kind in kinds:
        concept = {"outdoor": "plant", "indoor": "furniture"}.get(kind, kind)
        unclear = [word for word in homographs if kind in lexicon.AMBIGUOUS[word]]
        unclear_share = HOMOGRAPH_SHARE if unclear else 0.0
        groups.append(share(plain[kind], concept, 1 - unclear_share, kind))
        groups.append(share(unclear, concept, unclear_share, kind))
    if not described:
        weight = len(kinds) * DESCRIBED_SHARE / (1 - DESCRIBED_SHARE)
        groups.append(share(lexicon.SIZES, "size", weight / 2, "adjective"))
        groups.append(share(lexicon.COLOURS, "colour", weight / 2, "adjective"))
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
    yield from say("they" if kind in lexicon.PLURALS else "it", kind)
    yield from verb(verbs, concept, scene.tense)
    yield from where(scene, ".", "punctuation")


def where(scene: Scene, word: str, concept: str) -> Steps[None]:
    """Perhaps "here" or "there", then ``word``."""
    chosen = yield or_where(word, concept, scene.surroundings)
    if chosen.word != word:
        yield from say(word, concept)


@cache
def or_where(word: str, concept: str, surroundings: str) -> Slot:
    """The sentence goes on with ``word``, or says first where it happened."""
    return slot(share([word], concept, 0.3), share(["here", "there"], surroundings, 0.7))
