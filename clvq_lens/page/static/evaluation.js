// How well codes stand for the target, and how everything was set.

// A value and its interval; counts and medians have none.
const withInterval = (value, low, high) => {
  if (!isNumber(low) || !isNumber(high) || !isNumber(value)) return [short(value), ""];
  const [number, lower, upper] = toldApart(value, low, high);
  return [number, `${lower} to ${upper}`];
};

const metricTable = ({ rows }) => el("div", { class: "scrolled" }, el("table", { class: "data metrics" },
  el("thead", {}, el("tr", {}, ["metric", "value", "95 % interval", "meaning"].map((name, index) => el("th", { scope: "col", class: index === 1 ? "number" : "" }, name)))),
  el("tbody", {}, rows.map(([metric, value, low, high, meaning]) => {
    const [number, interval] = withInterval(value, low, high);
    return el("tr", {},
      el("th", { scope: "row" }, metric), el("td", { class: "number" }, number), el("td", { class: "interval" }, interval), el("td", {}, meaning));
  }))));

const evaluationView = () => {
  const { metrics, left_out: leftOut, recovery, agreement } = DATA.evaluation;
  return {
    title: "Evaluation",
    node: el("div", {},
      el("h1", { tabindex: "-1" }, "Evaluation"),
      el("p", { class: "lead" }, "Every number beside its baseline; intervals are over documents."),
      leftOut ? el("p", { class: "note" }, leftOut) : null,
      section("Metrics", metricTable(metrics)),
      DATA.figures.cross_entropy ? section("What the reconstruction costs the model", figure("cross_entropy", "Cross-entropy of the model, spliced and ablated")) : null,
      DATA.figures.norms ? section("How long activations are", el("p", {}, "Tokens beyond the dashed lines are left out of fitting and of all numbers."), figure("norms", "Distribution of the norms of activations at source and target")) : null,
      recovery ? section("Recovery of the given labels", figure("recovery", "Agreement of codes and baselines with the labels"), dataTable(recovery)) : null,
      agreement ? section("Agreement with the given labels, over all tokens", dataTable(agreement)) : null),
  };
};

const settingsView = () => ({
  title: "Settings",
  node: el("div", {},
    el("h1", { tabindex: "-1" }, "Settings"),
    el("div", { class: "columns" }, DATA.settings.map(({ title, rows }) => section(title,
      el("table", { class: "data settings" }, el("tbody", {}, rows.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value))))))))),
});
