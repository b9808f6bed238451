"""The words of the toy world, by what they mean, and the concepts they can stand for."""

from dataclasses import dataclass

Words = tuple[str, ...]


@dataclass(frozen=True)
class Verb:
    """The forms of a verb; one that is never used is empty."""

    past: str
    base: str
    third: str
    participle: str


def _words(line: str) -> Words:
    return tuple(line.split())


def _verbs(*lines: str) -> tuple[Verb, ...]:
    """Verbs from their four forms, with "-" for one that is never used."""
    verbs = []
    for line in lines:
        # split(" "), not split(): what is left of "-" is a form, too.
        past, base, third, participle = line.replace("-", "").split(" ")
        verbs.append(Verb(past, base, third, participle))
    return tuple(verbs)


NAMES = _words("anna ben emma john lucy tom")
TRADES: dict[str, Words] = {
    "food": _words("bakers chefs grocers"),
    "color": _words("painters tailors weavers"),
}
DAYS: dict[str, Words] = {"past": _words("yesterday once"), "present": _words("today now")}
DAYPARTS: dict[str, Words] = {"morning": _words("dawn sunrise"), "evening": _words("dusk sunset")}
CLOCK = _words("five six seven eight")
MEALS: dict[str, Words] = {
    "morning": _words("breakfast porridge"),
    "evening": _words("supper dinner"),
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
POSITIONS: dict[str, Words] = {"outdoor": _words("near below"), "indoor": _words("inside behind")}
OPEN_OR_NOT: dict[str, Words] = {
    "outdoor": _words("outside outdoors"),
    "indoor": _words("indoors upstairs"),
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
STUFFS: dict[str, Words] = {
    "food": _words("juice cream jam"),
    "color": _words("paint ink dye"),
}
COMPANY: dict[str, Words] = {
    "animal": _words("alone"),
    "animals": _words("together apart"),
    "people": _words("together apart"),
}
COLORS = _words("red blue white")
SIZES = _words("small big tiny")
NUMBERS = _words("two three four")

FEELINGS: dict[str, Words] = {
    "positive": _words("happy glad proud calm"),
    "negative": _words("sad angry upset afraid"),
}
NEGATIONS = _words("not never hardly")
DEGREES = _words("really very")
REACTIONS: dict[str, Words] = {
    "positive": _words("laughing smiling dancing"),
    "negative": _words("crying sighing frowning"),
}

MOVE = _verbs("crossed cross - -", "passed pass - -", "toured tour - -")
LEAVE = _verbs("left leave - -")
MEET = _verbs("met meet - -")
MIX = _verbs("mixed mix - -")
BE = _verbs("were are - -")
COME = _verbs("came - comes -")
FIND = _verbs("found - finds -")
STAND: dict[str, tuple[Verb, ...]] = {  # what plants do, and furniture
    "outdoor": _verbs("grew - grows -", "bloomed - blooms -"),
    "indoor": _verbs("stood - stands -", "gleamed - gleams -"),
}
USES: dict[str, tuple[str, tuple[Verb, ...]]] = {  # what one does to such a thing, and its concept
    "animal": ("care", _verbs("fed feed - -", "petted pet - -")),
    "tool": ("handling", _verbs("used use - -", "fixed fix - -")),
    "food": ("eating", _verbs("ate eat - -", "served serve - -")),
    "vehicle": ("motion", _verbs("drove drive - -", "parked park - -")),
}
_LIVE = _verbs("slept sleep sleeps sleeping", "hid hide hides hiding")
EVENTS: dict[str, tuple[str, tuple[Verb, ...]]] = {  # what happens to such a thing, and its concept
    "animal": ("behavior", _LIVE),
    "animals": ("behavior", _LIVE),
    "people": ("speech", _verbs("talked talk - talking", "whispered whisper - whispering")),
    "tool": ("failure", _verbs("broke - breaks breaking", "rusted - rusts rusting")),
    "food": ("decay", _verbs("melted - melts melting", "dried - dries drying")),
    "vehicle": ("motion", _verbs("stopped - stops stopping", "rolled - rolls rolling")),
}

CONCEPTS: dict[str, str] = {
    "person": "a name, and we who tell the story",
    "profession": "what we are; decides later on whether orange is a food or a color",
    "people": "several persons",
    "animal": "one animal",
    "animals": "several animals",
    "tool": "a tool",
    "food": "a food, or what is made of it",
    "vehicle": "a vehicle",
    "color": "a color, or what is made of it",
    "size": "a size",
    "outdoor": "a place under the open sky",
    "indoor": "a place under a roof",
    "plant": "what stands outdoors, and how",
    "furniture": "what stands indoors, and how",
    "positive": "a good feeling and how it shows",
    "negative": "a bad feeling and how it shows",
    "past": "a day or an act gone by",
    "present": "a day or an act now",
    "morning": "a time in the morning",
    "evening": "a time in the evening",
    "meal": "a meal",
    "motion": "we move, or a vehicle does",
    "care": "what one does to animals",
    "handling": "what one does with tools",
    "eating": "what one does with food",
    "behavior": "what animals do",
    "speech": "what people do",
    "failure": "what happens to tools",
    "decay": "what happens to food",
    "quantity": "how many, and whether alone or together",
    "negation": "turns a feeling round",
    "degree": "strengthens a feeling",
    "article": "a, the",
    "copula": "were, are",
    "preposition": "at, to, near, below, inside, behind",
    "connective": "and, finally",
    "punctuation": "the full stop",
}
"""Every concept that ``labels`` can give, and what it means."""

_BY_CONTEXT: dict[tuple[str, ...], Words] = {
    ("outdoor", "indoor"): (*PLACE_HOMOGRAPHS, "there", "here"),
    ("animal", "tool"): THING_HOMOGRAPHS,
    ("food", "color"): STUFF_HOMOGRAPHS,
    ("animal", "animals"): INVARIANT_PLURALS,
    ("past", "present"): INVARIANT_VERBS,
    ("positive", "negative"): (*FEELINGS["positive"], *FEELINGS["negative"]),
    ("morning", "evening"): CLOCK,
    ("animal", "tool", "food", "vehicle"): ("it", "one"),
    ("animals", "people"): ("they",),
}

AMBIGUOUS: dict[str, tuple[str, ...]] = {}
"""Every word whose concept only the words before it decide, and the concepts it can have."""
for _concepts, _group in _BY_CONTEXT.items():
    AMBIGUOUS.update(dict.fromkeys(_group, _concepts))
