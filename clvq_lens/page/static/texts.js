// The texts, token by token, each in the color of its concept.

let layer = Math.max(0, DATA.layers.findIndex((each) => each.own));

const textOf = (text) => text.pieces.map((piece) => piece.text).join(" \u2026 ");

const nTokens = (text) => text.pieces.reduce((n, piece) => n + piece.codes[0].filter((code) => code >= 0).length, 0);

let textList = null;

const buildTextList = () => {
  const items = DATA.texts.map((text) => el("li", { "data-item": true, "data-document": text.document },
    el("a", { href: `#text=${text.document}` }, el("span", { class: "number" }, String(text.document)), el("span", { class: "start" }, oneLine(textOf(text)).slice(0, 240))),
    el("span", { class: "number" }, `${count(nTokens(text))} tokens`)));
  return el("div", {},
    el("h1", { tabindex: "-1" }, "Texts"),
    searchField("Search texts", items, (item) => textOf(texts.get(Number(item.dataset.document))).toLowerCase(), "texts"),
    el("ol", { class: "texts" }, items));
};

const textsView = () => ({ title: "Texts", node: (textList = textList || buildTextList()) });

// ---- one text --------------------------------------------------------------------------------

const codeTitle = (code) => DATA.layers[layer].own ? shownTitle(concepts[code]) : oneLine(DATA.layers[layer].names[code] || "");

const layerTint = (code) => DATA.layers[layer].own ? tinted(code) : tinted(code, DATA.layers[layer].colors);

// What is known about the concept under the pointer or the keyboard focus.
const conceptCard = (code, n) => {
  const { own, name } = DATA.layers[layer];
  const concept = own ? concepts[code] : null;
  return [
    el("h2", {}, el("span", { class: "dot", style: layerTint(code), "aria-hidden": "true" }), `Code ${code}`),
    el("p", { class: "meaning" }, codeTitle(code)),
    el("p", {}, `${count(n)} ${n === 1 ? "token" : "tokens"} of this text`, concept ? `, ${percent(concept.share)} of all` : ""),
    concept && concept.token_labels.length ? el("p", {}, `Token label: ${concept.token_labels[0][0]} (${percent(concept.token_labels[0][2])})`) : null,
    concept && concept.at_target ? el("p", {}, "Promotes ", concept.at_target.promoted.slice(0, 5).map(([token]) => [chip(token), " "])) : null,
    concept ? el("p", {}, el("a", { href: codeLink(code) }, "Open the concept")) : el("p", { class: "note" }, `A code of the quantizer ${name}. This page lists no concepts of it.`),
  ];
};

const tokenNode = (token, code, show) => {
  if (code < 0) return el("span", { class: "special", title: "special token: has no concept" }, visible(token));
  const [space, word] = splitSpace(token);
  const text = word.replaceAll("\n", "\u21b5\n");
  const properties = { class: "token", style: layerTint(code), "data-code": code, "aria-label": `${token.trim()}, code ${code}`, onpointerenter: () => show(code), onfocus: () => show(code) };
  const node = DATA.layers[layer].own
    ? el("a", { ...properties, href: codeLink(code) }, text)
    : el("span", { ...properties, tabindex: "0" }, text);
  return [space, node];
};

const legend = (counts, show) => el("ul", { class: "legend" }, [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]).map(([code, n]) =>
  el("li", {}, el("button", { type: "button", "data-code": code, style: layerTint(code), onpointerenter: () => show(code), onfocus: () => show(code), onclick: () => show(code) },
    el("span", { class: "number" }, String(code)), " ", codeTitle(code), el("span", { class: "times" }, ` \u00d7${n}`)))));

const textBody = (text, marked) => {
  const counts = new Map();
  for (const piece of text.pieces) for (const code of piece.codes[layer]) if (code >= 0) counts.set(code, (counts.get(code) || 0) + 1);
  const card = el("aside", { class: "card", "aria-live": "polite", "aria-label": "Concept" });
  const show = (code) => {
    card.replaceChildren(...conceptCard(code, counts.get(code)).filter(Boolean));
    for (const node of body.querySelectorAll("[data-code]")) node.classList.toggle("same", Number(node.dataset.code) === code);
  };
  const pieces = text.pieces.map((piece) => el("p", { class: "strip" }, piece.tokens.map((token, index) => tokenNode(token, piece.codes[layer][index], show))));
  const body = el("div", { class: "reader" }, el("div", {}, pieces, el("h2", {}, "Concepts in this text"), legend(counts, show)), card);
  const first = counts.has(marked) ? marked : counts.keys().next().value;
  if (first !== undefined) show(first);
  return body;
};

const layerSwitch = (redraw) => DATA.layers.length < 2 ? null : el("fieldset", { class: "layers" }, el("legend", {}, "Quantizer"),
  DATA.layers.map((each, index) => el("label", {},
    el("input", { type: "radio", name: "layer", checked: index === layer, onchange: () => { layer = index; redraw(); } }), each.name)));

const textStep = (index, rel) => {
  const text = DATA.texts[index];
  return text ? el("a", { rel, href: `#text=${text.document}` }, rel === "prev" ? `\u2190 text ${text.document}` : `text ${text.document} \u2192`) : el("span", { class: "disabled" });
};

const textView = (document, marked) => {
  const text = texts.get(document);
  if (!text) return missing(`Text ${document} is not on this page, which holds ${count(texts.size)} texts.`);
  const index = DATA.texts.indexOf(text);
  const holder = el("div");
  const redraw = () => holder.replaceChildren(textBody(text, marked));
  redraw();
  return {
    title: `Text ${document}`,
    node: el("article", {},
      el("div", { class: "steps" }, el("a", { href: "#texts" }, "All texts"), el("nav", { "aria-label": "Previous and next text" }, textStep(index - 1, "prev"), textStep(index + 1, "next"))),
      el("h1", { tabindex: "-1" }, `Text ${document}`),
      layerSwitch(redraw),
      holder),
  };
};
