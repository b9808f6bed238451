// The first view: what was fitted, how well it does, and the codebook at a glance.

const N_MOST_USED = 10;

const tile = ({ name, value, note }) =>
  el("div", { class: "tile" }, el("dt", {}, name), el("dd", { class: "value" }, value), el("dd", { class: "note" }, note));

const RECONSTRUCTED_FROM = { codes: "codes alone", encoder: "codes together with the encoder's own output" };

const mostUsed = () => {
  const used = [...concepts].sort((a, b) => b.usage - a.usage).slice(0, N_MOST_USED).filter((c) => c.usage);
  const largest = used.length ? used[0].share : 1;
  return el("ol", { class: "most-used" }, used.map((concept) =>
    el("li", {},
      el("a", { href: codeLink(concept.code) },
        el("span", { class: "dot", style: tinted(concept.code), "aria-hidden": "true" }),
        el("span", { class: "number" }, String(concept.code)), " ",
        el("span", { class: "meaning" }, shownTitle(concept))),
      bar(concept.share / largest),
      el("span", { class: "share" }, percent(concept.share)))));
};

const openCode = (point) => {
  const code = /^code (\d+)/.exec(point.hovertext || "");
  if (code) location.hash = codeLink(Number(code[1]));
};

const overview = () => ({
  title: "Overview",
  node: el("div", {},
    el("h1", { tabindex: "-1" }, DATA.model),
    el("p", { class: "lead" }, `${DATA.about_model}.`),
    el("p", { class: "lead" },
      `${count(concepts.length)} codes stand between `, el("code", {}, DATA.source), " and ",
      el("code", {}, DATA.target), `: every token gets one at the source, and the target is reconstructed from ${RECONSTRUCTED_FROM[DATA.memory]}.`),
    el("dl", { class: "tiles" }, DATA.tiles.map(tile)),
    el("div", { class: "columns" },
      section("Most used concepts", mostUsed(), el("p", {}, el("a", { href: "#codes" }, `All ${count(concepts.length)} codes`))),
      figure("usage", "Share of tokens of each code, the most used first") &&
        section("Usage of codes", figure("usage", "Share of tokens of each code, the most used first"))),
    DATA.figures.codebook && section("Map of the codebook", el("p", { class: "note" }, "A click opens the code."), figure("codebook", "Code vectors in two dimensions, usage as size", openCode)),
    DATA.figures.history && section("Training history", figure("history", "Losses and codes in use over the training tokens"))),
});
