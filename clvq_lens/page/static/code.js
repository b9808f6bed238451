// One concept: its tokens, their contexts, and what it says about the next token.

const KINDS = [
  ["typical", "Typical", "nearest the code vector"],
  ["borderline", "Borderline", "almost as near to another code"],
  ["random", "Random", "drawn from all of its tokens"],
];

const TOKEN_COLUMNS = [["", "token"], ["", "bars"], ["tokens", "count"], ["share", "share"], ["lift", "lift"]];

const tokenTable = (title, note, tokens, strength) => {
  const largest = Math.max(...tokens.map(strength)) || 1;
  const row = (token) => el("tr", {},
    el("td", { class: "token" }, title === "Token labels" ? token[0] : chip(token[0])),
    el("td", { class: "bars" }, bar(strength(token) / largest)),
    el("td", { class: "number count" }, count(token[1])),
    el("td", { class: "number share" }, percent(token[2])),
    el("td", { class: "number lift" }, `\u00d7${short(token[3])}`));
  return tokens.length ? el("section", {},
    el("h2", {}, title, el("small", {}, note)),
    el("table", { class: "tokens" },
      el("thead", {}, el("tr", {}, TOKEN_COLUMNS.map(([name, kind]) => el(name ? "th" : "td", { scope: name ? "col" : null, class: kind }, name)))),
      el("tbody", {}, tokens.map(row)))) : null;
};

const logits = (title, vector) => {
  if (!vector) return null;
  const largest = Math.max(...[...vector.promoted, ...vector.suppressed].map((token) => Math.abs(token[1]))) || 1;
  const listed = (name, tokens) => el("div", {}, el("h3", {}, name), el("ul", { class: `logits ${name}` }, tokens.map(([token, logit]) =>
    el("li", {}, chip(token), bar(Math.abs(logit) / largest), el("span", { class: "number" }, signed(logit))))));
  return el("section", {},
    el("h2", {}, title[0], el("small", {}, title[1])),
    el("div", { class: "pair" }, listed("promoted", vector.promoted), listed("suppressed", vector.suppressed)));
};

const example = (code) => ([document, position, before, token, after, distance, margin]) => {
  const [space, word] = splitSpace(token);
  const [measure, value] = distance < 0 ? ["activation", -distance] : ["distance", distance]; // features have no distance
  return el("li", { title: `${measure} ${short(value)}, margin ${short(margin)} (mean ${measure} of all tokens: 1)` },
    el("span", { class: "before" }, el("span", {}, oneLine(before + space))),
    el("span", { class: "after" }, el("mark", { style: tinted(code) }, oneLine(word)), oneLine(after)),
    texts.has(document)
      ? el("a", { class: "where", href: `#text=${document}&code=${code}`, "aria-label": `text ${document}, position ${position}` }, `text ${document}`)
      : el("span", { class: "where" }, `text ${document}`));
};

const exampleLists = (concept) => KINDS.filter(([kind]) => concept[kind].length).map(([kind, title, note]) =>
  el("section", { class: kind },
    el("h2", {}, title, el("small", {}, note)),
    el("ol", { class: "examples" }, concept[kind].map(example(concept.code)))));

const facts = (concept) => {
  const tiles = [
    { name: "tokens", value: count(concept.usage), note: `of ${count(DATA.n_tokens)}` },
    { name: "share", value: percent(concept.share), note: `uniform use ${percent(1 / concepts.length)}` },
  ];
  if (concept.usage) tiles.push(
    { name: "entropy over tokens", value: short(concept.token_entropy), note: `nats; all tokens ${short(DATA.token_entropy)}` },
    { name: "entropy over positions", value: short(concept.position_entropy), note: `nats; all tokens ${short(DATA.position_entropy)}` });
  return el("dl", { class: "tiles" }, tiles.map(tile));
};

// The commonest nodes before and after the code, in the stages beside its quantizer.
const neighbors = (concept) => DATA.flow.neighbors.map(({ stage, comes, are_codes, names, codes }) => {
  const rows = codes[concept.code];
  if (!rows) return null;
  const title = comes === "before" ? `From ${stage}` : are_codes ? `To ${stage}` : "Predicted next";
  const note = are_codes ? `codes of the tokens ${comes}` : "tokens that the model predicts most";
  const largest = rows[0][1];
  const others = concept.usage - rows.reduce((n, row) => n + row[1], 0);
  const name = (node) => are_codes ? [el("span", { class: "number" }, String(node)), " ", el("span", { class: "meaning" }, names[node])] : chip(names[node]);
  return el("section", { class: "neighbors" },
    el("h2", {}, title, el("small", {}, note)),
    el("table", { class: "tokens" }, el("tbody", {}, rows.map(([node, n]) => el("tr", {},
      el("td", { class: "token" }, name(node)),
      el("td", { class: "bars" }, bar(n / largest)),
      el("td", { class: "number count" }, count(n)),
      el("td", { class: "number share" }, percent(n / concept.usage)))))),
    others > 0 ? el("p", { class: "note" }, `and ${count(others)} ${others === 1 ? "token" : "tokens"} elsewhere`) : null);
});

const fewTokens = (concept) => concept.usage && !concept.at_target && concept.direct && concept.usage < DATA.read_out_from
  ? el("p", { class: "note" }, `What the decoded vector promotes is left out: it would be the mean of ${count(concept.usage)} ${concept.usage === 1 ? "token" : "tokens"}, and this page shows it from ${count(DATA.read_out_from)} on.`)
  : null;

const nearestCodes = (concept) => concept.nearest.length ? el("section", {},
  el("h2", {}, "Nearest codes", el("small", {}, "by squared distance of code vectors; a token to its own code: 1")),
  el("ul", { class: "nearest" }, concept.nearest.map(([code, distance]) =>
    el("li", {}, el("a", { href: codeLink(code) },
      el("span", { class: "dot", style: tinted(code), "aria-hidden": "true" }),
      el("span", { class: "number" }, String(code)), " ", el("span", { class: "meaning" }, shownTitle(concepts[code]))),
      el("span", { class: "number" }, short(distance)))))) : null;

const step = (code, rel, text) => concepts[code]
  ? el("a", { rel, href: codeLink(code), title: `${text} (${rel === "prev" ? "k" : "j"})` }, rel === "prev" ? `\u2190 code ${code}` : `code ${code} \u2192`)
  : el("span", { class: "disabled" });

const codeView = (code) => {
  const concept = concepts[code];
  if (!concept) return missing(`There is no code ${code}. Codes go from 0 to ${concepts.length - 1}.`);
  const [before, after] = around(code);
  return {
    title: `Code ${code}`,
    node: el("article", {},
      el("div", { class: "steps" }, el("a", { href: "#codes" }, "All concepts"), el("nav", { "aria-label": "Previous and next code" }, step(before, "prev", "Previous code"), step(after, "next", "Next code"))),
      el("h1", { tabindex: "-1" }, el("span", { class: "dot", style: tinted(code), "aria-hidden": "true" }), el("span", { class: "title" }, `Code ${code}`), " ", el("span", { class: "meaning" }, shownTitle(concept))),
      concept.usage ? null : el("p", { class: "lead" }, "No token of these data chose this code."),
      facts(concept),
      el("div", { class: "columns" },
        tokenTable("Tokens by count", "the commonest", concept.tokens, (token) => token[1]),
        tokenTable("Tokens by lift", "share here over share anywhere", concept.distinctive, (token) => token[3]),
        tokenTable("Token labels", "as given with the data", concept.token_labels, (token) => token[2]),
        logits(["Next token, at the target", `of the decoded vector, mean of ${count(concept.usage)} tokens`], concept.at_target),
        logits(["Next token, directly", "of the code vector itself"], concept.direct),
        neighbors(concept),
        nearestCodes(concept)),
      fewTokens(concept),
      exampleLists(concept)),
  };
};
