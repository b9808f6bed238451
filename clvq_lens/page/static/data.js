// The data of the page, and what the views look up in them.

const DATA = JSON.parse(document.getElementById("data").textContent);

const concepts = DATA.codes;
const texts = new Map(DATA.texts.map((text) => [text.document, text]));

// The colour of a code, the same as in the figures.
const tinted = (code, colours = DATA.colours) => `--colour: ${colours[code]}`;

const codeLink = (code) => `#code=${code}`;

// A name of white space alone would not be seen.
const shownName = (concept) => concept.name.trim() ? concept.name : visible(concept.name);

const shownLabel = (concept) => concept.name ? shownName(concept) : concept.label;

// Everything of a concept that can be searched for.
const haystack = (concept) => [
  `code ${concept.code}`,
  concept.name,
  ...["tokens", "distinctive", "labels"].flatMap((kind) => concept[kind].map((token) => token[0])),
  ...["typical", "borderline", "random"].flatMap((kind) => concept[kind].map((e) => e[2] + e[3] + e[4])),
].join("\n").toLowerCase();
