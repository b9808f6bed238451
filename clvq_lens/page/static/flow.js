// How concepts flow from one quantizer to the next.

const dataTable = ({ columns, rows }, kinds = {}) => {
  const numeric = columns.map((_, index) => rows.some((row) => isNumber(row[index])));
  const cell = (value, index) => el("td", { class: numeric[index] ? "number" : kinds[columns[index]] || "" }, isNumber(value) || value === null ? (value === null && !numeric[index] ? "" : short(value)) : String(value));
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
    DATA.flow ? section("Summary", dataTable(DATA.flow)) : null),
});
