// Plotly figures: drawn when they come into view, with texts in the color of the page. On a page that is narrower than
// a figure can be read, the figure is scrolled sideways (see site.css).

const OPTIONS = { responsive: true, displayModeBar: false };

const inkOfPage = () => getComputedStyle(document.body).getPropertyValue("--color-foreground-secondary").trim();

const draw = (node) => {
  const { data, layout } = JSON.parse(node.querySelector("script").textContent);
  layout.font = { ...layout.font, color: inkOfPage() };
  delete layout.width;
  const sheet = node.appendChild(document.createElement("div"));
  Plotly.newPlot(sheet, data, layout, OPTIONS).then(() => { sheet.dataset.drawn = "true"; });
};

const drawn = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    drawn.unobserve(target);
    draw(target);
  }
}, { rootMargin: "600px" });

for (const node of document.querySelectorAll(".plotly-figure")) drawn.observe(node);

const ink = () => {
  for (const node of document.querySelectorAll(".plotly-figure > [data-drawn]")) Plotly.relayout(node, { "font.color": inkOfPage() });
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", ink);
new MutationObserver(ink).observe(document.body, { attributeFilter: ["data-theme"] });
