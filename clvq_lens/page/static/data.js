// The data of the page, and what the views look up in them.

const DATA = JSON.parse(document.getElementById("data").textContent);

const concepts = DATA.codes;
const texts = new Map(DATA.texts.map((text) => [text.document, text]));

// The color of a code, the same as in the figures.
const tinted = (code, colors = DATA.colors) => `--color: ${colors[code]}`;

const codeLink = (code) => `#code=${code}`;

// A name of white space alone would not be seen.
const shownName = (concept) => concept.name.trim() ? concept.name : visible(concept.name);

// What a code is called: its name, or else its commonest tokens.
const shownTitle = (concept) => concept.name ? shownName(concept) : concept.title;

// All the texts of a concept that a search looks through.
const haystack = (concept) => [
  `code ${concept.code}`,
  concept.name,
  ...["tokens", "distinctive", "token_labels"].flatMap((kind) => concept[kind].map((token) => token[0])),
  ...["typical", "borderline", "random"].flatMap((kind) => concept[kind].map((e) => e[2] + e[3] + e[4])),
].join("\n").toLowerCase();
