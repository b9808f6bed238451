// How concepts flow from one quantizer to the next.

const dataTable = ({ columns, rows }) => {
  const numeric = columns.map((_, index) => rows.some((row) => isNumber(row[index])));
  const linked = ([code, name], stage) => {
    const text = [el("span", { class: "number" }, String(code)), ` ${visibleEnds(name)}`];
    return stage === DATA.name ? el("a", { href: codeLink(code) }, text) : text;
  };
  const cell = (value, index) => el("td", { class: numeric[index] ? "number" : "" }, numeric[index] ? short(value) : Array.isArray(value) ? linked(value, columns[index]) : visibleEnds(value));
  return el("div", { class: "scrolled" }, el("table", { class: "data" },
    el("thead", {}, el("tr", {}, columns.map((name, index) => el("th", { scope: "col", class: numeric[index] ? "number" : "" }, name.replaceAll("_", " "))))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map(cell))))));
};

// The diagram that is shown; a reader who comes back finds the same one.
let flowChoice = null;

// A click on a code of the page's own quantizer opens it.
const openNode = (point) => {
  const found = /^<b>(.*): (\d+)\b/.exec(point.customdata || "");
  if (found && found[1] === DATA.name && concepts[Number(found[2])]) location.hash = codeLink(Number(found[2]));
};

const flowDiagrams = () => {
  const { choices } = DATA.flow;
  flowChoice = flowChoice || choices[0][0];
  const holder = el("div");
  const draw = () => {
    dropFigures(holder);
    holder.replaceChildren(figure(flowChoice, "Sankey diagram of concepts", openNode, "flow"));
    if (holder.isConnected) drawFigures(holder);
  };
  draw();
  const choose = el("select", { id: "flow-choice", onchange: (event) => { flowChoice = event.target.value; draw(); } },
    choices.map(([name, title]) => el("option", { value: name, selected: name === flowChoice }, title)));
  return [el("p", { class: "choice" }, el("label", { for: "flow-choice" }, "Shown: "), choose), holder];
};

const flowView = () => ({
  title: "Flow",
  node: el("div", {},
    el("h1", { tabindex: "-1" }, "Concept flow"),
    el("p", { class: "lead" }, DATA.layers.length > 1
      ? "The paths of tokens through the codes of each quantizer. Nodes that are not drawn on their own are summed by kind. A click on a code of this page opens it, with its whole neighborhood."
      : "From the token at the source, through its concept, to the token that the model predicts. Nodes that are not drawn on their own are summed by kind. A click on a code opens it, with its whole neighborhood."),
    flowDiagrams(),
    section("What one stage says about the next", el("p", { class: "note" }, "Information in nats; shuffled tokens are the baseline."), dataTable(DATA.flow.summary)),
    DATA.flow.events.rows.length ? section("Persistent, splitting and merging concepts", dataTable(DATA.flow.events)) : null,
    section("Commonest paths",
      DATA.flow.paths.columns.includes("at_most") ? el("p", { class: "note" }, "There were too many paths to count them all: the true count lies between count and at most.") : null,
      dataTable(DATA.flow.paths)),
    DATA.flow.agreement ? section("Where in depth the given labels appear", dataTable(DATA.flow.agreement)) : null),
});
