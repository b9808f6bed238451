"""What happens in a story, one kind of episode after the other."""

from functools import cache

from clvq_lens.toy import lexicon
from clvq_lens.toy.phrases import (
    HOMOGRAPH_SHARE,
    Scene,
    event,
    forms,
    noun,
    verb,
    where,
)
from clvq_lens.toy.slots import Option, Slot, Steps, one_of, say, share, slot

FACES = tuple(lexicon.FEELINGS.items())


def sight(scene: Scene) -> Steps[str]:
    """She saw something that belongs to the place ("there" has been said)."""
    yield from say(scene.pronoun, "person")
    yield from verb((("saw", "see"),), scene.tense, scene.tense)
    yield from say("a", "article")
    yield from noun((scene.surroundings,))
    yield from say(".", "punctuation")
    return ""


def clock(scene: Scene) -> Steps[str]:
    """A meal at six: breakfast or supper ("at" has been said)."""
    yield one_of(lexicon.CLOCK, scene.daytime)
    yield from say(scene.pronoun, "person")
    yield from verb((("had", "have"),), scene.tense, scene.tense)
    yield one_of(lexicon.MEALS[scene.daytime], "meal")
    yield from where(scene, ".", "punctuation")
    return ""


def friend(scene: Scene, kind: str) -> Steps[str]:
    """Somebody else gets such a thing too (the name has been said)."""
    concept, verbs = lexicon.USES[kind]
    yield from verb(lexicon.GETTING, scene.tense, scene.tense)
    yield from say("one", kind)
    yield from where(scene, "and", "connective")
    yield one_of(forms(verbs, scene.tense), concept)
    yield from say("it", kind)
    yield from say(".", "punctuation")
    return ""


def act(scene: Scene) -> Steps[str]:
    """She did something ("she" has been said); returns the kind of thing she has now."""
    if scene.tense == "future":
        yield from say("will", "future")
    first = yield acts(scene.tense)
    match first.leads:
        case "feel":
            return (yield from feel(scene, first))
        case "mix":
            return (yield from mix(scene))
        case "meet":
            return (yield from meet(scene))
        case "handle":
            return (yield from handle(scene, first.word))
        case kind:
            return (yield from use(scene, kind))


@cache
def acts(tense: str) -> Slot:
    """The first word after "she" or "she will"."""
    feel = share(["was"], "copula", 0.24, "feel")
    if tense == "future":
        feel = [
            *share(["be"], "copula", 0.12, "feel"),
            *share(lexicon.NEGATIONS, "negation", 0.12, "feel"),
        ]
    uses = [
        share(forms(verbs, tense), concept, 0.12 if kind in ("animal", "tool") else 0.04, kind)
        for kind, (concept, verbs) in lexicon.USES.items()
    ]
    return slot(
        feel,
        share(forms((("mixed", "mix"),), tense), tense, 0.16, "mix"),
        share(forms((("met", "meet"),), tense), tense, 0.2, "meet"),
        share(lexicon.INVARIANT_VERBS, tense, 0.2, "handle"),
        *uses,
    )


def use(scene: Scene, kind: str) -> Steps[str]:
    """She fed the bat, or used it: the verb tells animal from tool."""
    yield from say("the", "article")
    yield from noun((kind,), lexicon.THING_HOMOGRAPHS)
    yield from say(".", "punctuation")
    yield from event(scene, kind)
    return kind


def handle(scene: Scene, first: str) -> Steps[str]:
    """She cut it, set it and put it away: verbs that do not show their tense."""
    yield from say("the", "article")
    kind = yield from noun(("tool", "food", "vehicle"))
    yield from say(",", "punctuation")
    second = yield invariant_verbs(scene.tense, (first,))
    yield from say("it", kind)
    yield from say("and", "connective")
    yield invariant_verbs(scene.tense, (first, second.word))
    yield from say("it", kind)
    yield one_of(lexicon.PARTICLES, "particle")
    yield from say(".", "punctuation")
    yield from event(scene, kind)
    return kind


@cache
def invariant_verbs(tense: str, without: tuple[str, ...]) -> Slot:
    """Verbs that do not show their tense, each said once in a sentence."""
    return slot(share([verb for verb in lexicon.INVARIANT_VERBS if verb not in without], tense))


@cache
def counts() -> Slot:
    """How many she met; so chosen that "sheep" is one animal as often as several."""
    return slot(share(["a"], "article", 1.0), share(lexicon.NUMBERS, "quantity", 2.0))


def meet(scene: Scene) -> Steps[str]:
    """She met a sheep, two sheep or two men: the number and "they" depend on it."""
    count = yield counts()
    kinds = ("animal",) if count.word == "a" else tuple(lexicon.PLURALS)
    kind = yield from noun(kinds, lexicon.INVARIANT_PLURALS)
    yield from say(".", "punctuation")
    yield from event(scene, kind)
    return kind if kind == "animal" else ""


@cache
def stuff(trade: str, without: str = "") -> Slot:
    """What can be mixed: "orange" is a food to a baker and a colour to a painter."""
    plain = lexicon.COLOURS if trade == "colour" else lexicon.THINGS["food"]
    homographs = [word for word in lexicon.STUFF_HOMOGRAPHS if word != without]
    return slot(
        share(homographs, trade, HOMOGRAPH_SHARE),
        share([word for word in plain if word != without], trade, 1 - HOMOGRAPH_SHARE),
    )


def mix(scene: Scene) -> Steps[str]:
    """She mixed orange and lime; the profession says what for."""
    first = yield stuff(scene.trade)
    yield from say("and", "connective")
    yield stuff(scene.trade, first.word)
    yield from say("for", "preposition")
    yield from say("the", "article")
    if scene.trade == "colour":
        yield one_of(lexicon.SIGHTS["indoor"], "furniture")
    else:
        yield one_of(lexicon.MEALS[scene.daytime], "meal")
    yield from say(".", "punctuation")
    return ""


@cache
def moods(negated: bool, before: str) -> Slot:
    """What follows "was" and "be"; a negation turns the feelings round."""
    return slot(
        share(lexicon.NEGATIONS, "negation", 0.5 if before == "was" else 0.0, "negation"),
        share(lexicon.DEGREES, "degree", 0.2 if before != "degree" else 0.0, "degree"),
        *(share(words, mood(face, negated), 0.15, face) for face, words in FACES),
    )


def mood(face: str, negated: bool) -> str:
    """What a feeling of this face value is where it stands."""
    return {"positive": "negative", "negative": "positive"}[face] if negated else face


@cache
def after_feeling(connective: str) -> Slot:
    """A sentence ends here, or names another feeling of the same kind."""
    return slot(share(["."], "punctuation", 0.4), share([connective], "connective", 0.6))


def feel(scene: Scene, first: Option) -> Steps[str]:
    """She was not very happy, so she cried ("was", "be" or a negation has been said)."""
    negated = first.concept == "negation"
    if negated:
        yield from say("be", "copula")
    chosen = yield moods(negated, "was" if first.word == "was" else "be")
    if chosen.leads == "negation":
        negated = True
        chosen = yield moods(negated, "negation")
    if chosen.leads == "degree":
        chosen = yield moods(negated, "degree")
    concept = mood(chosen.leads, negated)
    more = yield after_feeling("or" if negated else "and")
    if more.word != ".":
        words = lexicon.FEELINGS[chosen.leads]
        yield one_of(tuple(word for word in words if word != chosen.word), concept)
        yield from say(".", "punctuation")
    yield from say("so", "connective")
    yield from say(scene.pronoun, "person")
    yield from verb(lexicon.REACTIONS[concept], concept, scene.tense)
    yield from say(".", "punctuation")
    return ""
