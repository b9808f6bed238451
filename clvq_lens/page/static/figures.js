// Plotly figures: drawn when their view is shown, and removed when it is left.

const FIGURE_OPTIONS = { responsive: true, displayModeBar: false };

const figure = (name, description, onclick, kind = name) => {
  if (!DATA.figures[name]) return null;
  const node = el("div", { class: `figure ${kind}`, role: "img", "aria-label": description });
  node.figure = { name, onclick };
  return el("div", { class: "figure-frame" }, node);
};

// Texts in figures have the color of the page's own quiet text.
const inkOfPage = () => getComputedStyle(document.documentElement).getPropertyValue("--quiet").trim();

const inkFigures = () => {
  for (const node of document.querySelectorAll(".figure[data-drawn]")) Plotly.relayout(node, { "font.color": inkOfPage() });
};

const drawFigures = (view) => {
  for (const node of view.querySelectorAll(".figure")) {
    const { name, onclick } = node.figure;
    const { data, layout } = structuredClone(DATA.figures[name]);
    layout.font = { ...layout.font, color: inkOfPage() };
    // On a narrower page the names on the map would overlap.
    if (name === "codebook" && node.clientWidth < 560) for (const trace of data) trace.mode = "markers";
    node.style.minHeight = `${layout.height || 400}px`;
    Plotly.newPlot(node, data, layout, FIGURE_OPTIONS).then(() => {
      node.dataset.drawn = "true";
      if (onclick) node.on("plotly_click", (event) => onclick(event.points[0]));
    });
  }
};

const dropFigures = (view) => {
  for (const node of view.querySelectorAll(".figure[data-drawn]")) Plotly.purge(node);
};
