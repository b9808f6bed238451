"""The words of the toy world, by what they mean, and the concepts they can stand for."""

Words = tuple[str, ...]
Verbs = tuple[tuple[str, str], ...]  # past form, base form


def _words(line: str) -> Words:
    return tuple(line.split())


def _verbs(line: str) -> Verbs:
    pairs = [verb.split("/") for verb in line.split()]
    return tuple((past, base) for past, base in pairs)


NAMES: dict[str, Words] = {"she": _words("anna emma lucy mary"), "he": _words("ben john paul tom")}
TRADES: dict[str, Words] = {
    "food": _words("baker chef grocer"),
    "colour": _words("painter tailor weaver"),
}
DAYS: dict[str, Words] = {"past": _words("yesterday once"), "future": _words("tomorrow soon")}
DAYPARTS: dict[str, Words] = {"morning": _words("dawn sunrise"), "evening": _words("dusk sunset")}
CLOCK = _words("five six seven eight")
MEALS: dict[str, Words] = {
    "morning": _words("breakfast porridge toast"),
    "evening": _words("supper dinner stew"),
}

# Words with several senses: an earlier word decides which one is meant.
PLACE_HOMOGRAPHS = _words("bank court pool")
THING_HOMOGRAPHS = _words("bat crane mouse")
STUFF_HOMOGRAPHS = _words("orange lime plum olive")
INVARIANT_PLURALS = _words("sheep fish deer")
INVARIANT_VERBS = _words("cut put hit shut set")

WAYS: dict[str, Words] = {
    "outdoor": _words("forest field valley"),
    "indoor": _words("hall lobby cellar"),
}
PLACES: dict[str, Words] = {
    "outdoor": _words("beach river hill"),
    "indoor": _words("library museum shop"),
}
SIGHTS: dict[str, Words] = {
    "outdoor": _words("tree flower bush"),
    "indoor": _words("lamp sofa desk"),
}
THINGS: dict[str, Words] = {
    "animal": _words("dog cat horse"),
    "tool": _words("hammer drill spade"),
    "food": _words("bread cake cheese"),
    "vehicle": _words("car bus bike"),
}
PLURALS: dict[str, Words] = {
    "animals": _words("dogs cats birds"),
    "people": _words("girls boys women men"),
}
COLOURS = _words("red blue white")
SIZES = _words("small big tiny")
NUMBERS = _words("two three four")

FEELINGS: dict[str, Words] = {
    "positive": _words("happy glad proud calm"),
    "negative": _words("sad angry upset afraid"),
}
NEGATIONS = _words("not never hardly")
DEGREES = _words("really very")

MOTIONS = _verbs("crossed/cross passed/pass toured/tour")
REACTIONS: dict[str, Verbs] = {
    "positive": _verbs("laughed/laugh smiled/smile danced/dance"),
    "negative": _verbs("cried/cry sighed/sigh frowned/frown"),
}
USES: dict[str, tuple[str, Verbs]] = {  # what one does to a thing of that kind, and its concept
    "animal": ("care", _verbs("fed/feed petted/pet")),
    "tool": ("handling", _verbs("used/use fixed/fix")),
    "food": ("eating", _verbs("ate/eat served/serve")),
    "vehicle": ("motion", _verbs("drove/drive parked/park")),
}
EVENTS: dict[str, tuple[str, Verbs]] = {  # what happens to such a thing, and its concept
    "animal": ("behaviour", _verbs("slept/sleep hid/hide drank/drink")),
    "animals": ("behaviour", _verbs("slept/sleep hid/hide drank/drink")),
    "people": ("speech", _verbs("talked/talk whispered/whisper argued/argue")),
    "tool": ("failure", _verbs("broke/break rusted/rust snapped/snap")),
    "food": ("decay", _verbs("smelled/smell melted/melt dried/dry")),
    "vehicle": ("motion", _verbs("stopped/stop turned/turn rolled/roll")),
}
GETTING = _verbs("found/find bought/buy")
PARTICLES = _words("down away aside")

CONCEPTS: dict[str, str] = {
    "person": "a name, or the pronoun that stands for it",
    "profession": "what the person is; decides later on whether orange is a food or a colour",
    "people": "several persons",
    "animal": "one animal",
    "animals": "several animals",
    "tool": "a tool",
    "food": "a food",
    "vehicle": "a vehicle",
    "colour": "a colour",
    "size": "a size",
    "outdoor": "a place under the open sky",
    "indoor": "a place under a roof",
    "plant": "what one sees outdoors",
    "furniture": "what one sees indoors",
    "positive": "a good feeling and how it shows",
    "negative": "a bad feeling and how it shows",
    "past": "a day or an act before now",
    "future": "a day or an act after now",
    "morning": "a time in the morning",
    "evening": "a time in the evening",
    "meal": "a meal",
    "motion": "persons and vehicles move",
    "care": "what one does to animals",
    "handling": "what one does with tools",
    "eating": "what one does with food",
    "behaviour": "what animals do",
    "speech": "what people do",
    "failure": "what happens to tools",
    "decay": "what happens to food",
    "quantity": "how many, more than one",
    "negation": "turns a feeling round",
    "degree": "strengthens a feeling",
    "article": "a, the",
    "copula": "was, be",
    "preposition": "at, for, to",
    "connective": "and, or, so, finally",
    "particle": "where to something is put",
    "punctuation": "full stop and comma",
}
"""Every concept that ``labels`` can give, and what it means."""

_BY_CONTEXT: dict[tuple[str, ...], Words] = {
    ("outdoor", "indoor"): (*PLACE_HOMOGRAPHS, "there", "here"),
    ("animal", "tool"): THING_HOMOGRAPHS,
    ("food", "colour"): STUFF_HOMOGRAPHS,
    ("animal", "animals"): INVARIANT_PLURALS,
    ("past", "future"): INVARIANT_VERBS,
    ("positive", "negative"): (*FEELINGS["positive"], *FEELINGS["negative"]),
    ("morning", "evening"): CLOCK,
    ("animal", "tool", "food", "vehicle"): ("it", "one"),
    ("animals", "people"): ("they",),
}

AMBIGUOUS: dict[str, tuple[str, ...]] = {
    word: concepts for concepts, words in _BY_CONTEXT.items() for word in words
}
"""Every word whose concept only the words before it decide, and the concepts it can have."""
