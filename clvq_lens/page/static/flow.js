// How concepts flow from one quantizer to the next.

const dataTable = ({ columns, rows }) => {
  const numeric = columns.map((_, index) => rows.some((row) => isNumber(row[index])));
  const linked = ([code, label], name) => {
    const text = [el("span", { class: "number" }, String(code)), ` ${visibleEnds(label)}`];
    return name === DATA.name ? el("a", { href: codeLink(code) }, text) : text;
  };
  const cell = (value, index) => el("td", { class: numeric[index] ? "number" : "" }, numeric[index] ? short(value) : Array.isArray(value) ? linked(value, columns[index]) : visibleEnds(value));
  return el("div", { class: "scrolled" }, el("table", { class: "data" },
    el("thead", {}, el("tr", {}, columns.map((name, index) => el("th", { scope: "col", class: numeric[index] ? "number" : "" }, name.replaceAll("_", " "))))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map(cell))))));
};

const flowView = () => ({
  title: "Flow",
  node: el("div", {},
    el("h1", { tabindex: "-1" }, "Concept flow"),
    el("p", { class: "lead" }, DATA.layers.length > 1
      ? "The paths of tokens through the codes of each quantizer. Thin paths are summed as \u201cother\u201d."
      : "From the token at the source, through its concept, to the token that the model predicts. Thin paths are summed as \u201cother\u201d."),
    figure("flow", "Sankey diagram of concepts"),
    section("What one stage says about the next", el("p", { class: "note" }, "Information in nats; shuffled tokens are the baseline."), dataTable(DATA.flow.summary)),
    DATA.flow.events.rows.length ? section("Persistent, splitting and merging concepts", dataTable(DATA.flow.events)) : null,
    section("Commonest paths", dataTable(DATA.flow.paths)),
    DATA.flow.agreement ? section("Where in depth the given labels appear", dataTable(DATA.flow.agreement)) : null),
});
