"""What happens in a story, one kind of episode after the other.

An episode returns the kind of the thing it was about, "" if "one" could not stand for it.
"""

from functools import cache

from clvq_lens.toy import lexicon
from clvq_lens.toy.phrases import (
    HOMOGRAPH_SHARE,
    SIGHT_CONCEPTS,
    Scene,
    end,
    event,
    maybe,
    noun,
    participles,
    plural,
    singular,
)
from clvq_lens.toy.slots import Slot, Steps, one_of, say, share, slot

# Animals and tools share homographs, such as "bat", so they come up more often than the others.
_USE_WEIGHTS = {"animal": 0.13, "tool": 0.13, "food": 0.06, "vehicle": 0.06}


def sight(scene: Scene) -> Steps[str]:
    """There grew a tree ("there" has been said)."""
    concept = SIGHT_CONCEPTS[scene.surroundings]
    yield one_of(singular(lexicon.STAND[scene.surroundings], scene.tense), concept)
    yield from say("a", "article")
    yield from noun((scene.surroundings,))
    yield from say(".", "punctuation")
    return ""


def clock(scene: Scene) -> Steps[str]:
    """At six breakfast came, or supper ("at" has been said)."""
    yield one_of(lexicon.CLOCK, scene.daytime)
    yield one_of(lexicon.MEALS[scene.daytime], "meal")
    yield one_of(singular(lexicon.COME, scene.tense), scene.tense)
    yield from end(scene)
    return ""


def friend(scene: Scene, kind: str) -> Steps[str]:
    """Somebody found such a thing too (the name has been said)."""
    yield one_of(singular(lexicon.FIND, scene.tense), scene.tense)
    yield from say("one", kind)
    yield participles(kind)
    yield from end(scene)
    return ""


def handle(scene: Scene) -> Steps[str]:
    """The bread we cut melted: the verb after "cut" shows its tense ("the" has been said)."""
    kind = yield from noun(("tool", "food", "vehicle"))
    yield from say("we", "person")
    yield one_of(lexicon.INVARIANT_VERBS, scene.tense)
    concept, verbs = lexicon.EVENTS[kind]
    yield one_of(singular(verbs, scene.tense), concept)
    yield from end(scene)
    return kind


def act(scene: Scene) -> Steps[str]:
    """We did something ("we" has been said)."""
    first = yield acts(scene.tense)
    match first.leads:
        case "feel":
            return (yield from feel(scene))
        case "mix":
            return (yield from mix(scene))
        case "meet":
            return (yield from meet(scene))
        case kind:
            return (yield from use(scene, kind))


@cache
def acts(tense: str) -> Slot:
    """The first word after "we"."""
    groups = [
        share(plural(lexicon.BE, tense), "copula", 0.25, "feel"),
        share(plural(lexicon.MIX, tense), tense, 0.18, "mix"),
        share(plural(lexicon.MEET, tense), tense, 0.22, "meet"),
    ]
    for kind, (concept, verbs) in lexicon.USES.items():
        groups.append(share(plural(verbs, tense), concept, _USE_WEIGHTS[kind], kind))
    return slot(*groups)


def use(scene: Scene, kind: str) -> Steps[str]:
    """We fed the bat sleeping there, or used it: the verb tells animal from tool."""
    yield from say("the", "article")
    yield from noun((kind,), lexicon.THING_HOMOGRAPHS)
    yield participles(kind)
    yield from end(scene)
    yield from event(scene, kind)
    return kind


@cache
def counts() -> Slot:
    """How many we met; so chosen that "sheep" is one animal as often as several."""
    return slot(share(["a"], "article", 1.0), share(lexicon.NUMBERS, "quantity", 2.0))


def meet(scene: Scene) -> Steps[str]:
    """We met a sheep alone, two sheep together or two men: "it" and "they" depend on it."""
    count = yield counts()
    kinds = ("animal",) if count.word == "a" else tuple(lexicon.PLURALS)
    kind = yield from noun(kinds, lexicon.INVARIANT_PLURALS)
    together = yield maybe(".", "punctuation", lexicon.COMPANY[kind], "quantity")
    if together.leads == "extra":
        yield from say(".", "punctuation")
    yield from event(scene, kind)
    return kind if kind == "animal" else ""


@cache
def stuff(trade: str) -> Slot:
    """What can be mixed: "orange" is a food to a baker and a color to a painter."""
    plain = lexicon.COLORS if trade == "color" else lexicon.THINGS["food"]
    return slot(
        share(lexicon.STUFF_HOMOGRAPHS, trade, HOMOGRAPH_SHARE),
        share(plain, trade, 1 - HOMOGRAPH_SHARE),
    )


def mix(scene: Scene) -> Steps[str]:
    """We mixed orange juice and lime cream, or orange paint and lime ink."""
    yield stuff(scene.trade)
    yield one_of(lexicon.STUFFS[scene.trade], scene.trade)
    yield from say("and", "connective")
    yield stuff(scene.trade)
    yield one_of(lexicon.STUFFS[scene.trade], scene.trade)
    yield from end(scene)
    return ""


def mood(face: str, negated: bool) -> str:
    """What a feeling of this face value is where it stands: "not happy" is negative."""
    if not negated:
        return face
    return "negative" if face == "positive" else "positive"


@cache
def moods(negated: bool, before: str) -> Slot:
    """What follows "were"; a negation turns the feelings round."""
    groups = [
        # Half of all feelings are negated, so that no word has one usual meaning.
        share(lexicon.NEGATIONS, "negation", 0.5 if before == "were" else 0.0, "negation"),
        share(lexicon.DEGREES, "degree", 0.2 if before != "degree" else 0.0, "degree"),
    ]
    for face, words in lexicon.FEELINGS.items():
        concept = mood(face, negated)
        groups.append(share(words, concept, 0.15, concept))
    return slot(*groups)


def feel(scene: Scene) -> Steps[str]:
    """We were not very happy crying there ("were" has been said)."""
    chosen = yield moods(False, "were")
    negated = chosen.leads == "negation"
    if negated:
        chosen = yield moods(True, "negation")
    if chosen.leads == "degree":
        chosen = yield moods(negated, "degree")
    yield one_of(lexicon.REACTIONS[chosen.leads], chosen.leads)
    yield from end(scene)
    return ""
