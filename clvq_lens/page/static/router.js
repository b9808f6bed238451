// From the hash to a view: every view has an address, and the back button works.

const VIEWS = [
  ["", "Overview"], ["codes", "Concepts"], ["flow", "Flow"],
  ["texts", "Texts"], ["evaluation", "Evaluation"], ["settings", "Settings"],
];

const main = document.getElementById("main");

const missing = (message) => ({
  title: "Not found",
  node: el("div", {}, el("h1", { tabindex: "-1" }, "Not found"), el("p", { class: "lead" }, message), el("p", {}, el("a", { href: "#" }, "Overview"))),
});

const parse = (hash) => {
  const parameters = new URLSearchParams(hash.slice(1));
  const number = (name) => /^\d+$/.test(parameters.get(name) || "") ? Number(parameters.get(name)) : NaN;
  if (parameters.has("text")) return { tab: "texts", up: "#texts", item: `[data-document="${number("text")}"]`, view: () => textView(number("text"), number("code")) };
  if (parameters.has("code")) return { tab: "codes", up: "#codes", item: `[data-code="${number("code")}"]`, view: () => codeView(number("code")) };
  const views = { "": overview, codes: codesView, flow: flowView, texts: textsView, evaluation: evaluationView, settings: settingsView };
  const name = hash.slice(1);
  if (!Object.hasOwn(views, name)) return { tab: null, up: "#", view: () => missing("This page has no such view.") };
  return { tab: name, up: name ? "#" : null, view: views[name] };
};

const parentHash = () => parse(location.hash).up;

let shown = null;  // the hash of the view that is shown
const scrolled = new Map();  // how far each view was scrolled when it was left

// Back in a list, focus the item that was open; elsewhere the heading, so that it is read aloud.
const focusWhereOneWas = (node, left) => {
  const item = left.item && node.querySelector(`[data-item]${left.item}`);
  if (!item || item.hidden) { node.querySelector("h1").focus({ preventScroll: true }); return; }
  itemLink(item).focus({ preventScroll: true });
  item.scrollIntoView({ block: "nearest" });
};

const showHash = () => {
  if (shown === location.hash) return;
  if (shown !== null) {
    scrolled.set(shown, scrollY);
    dropFigures(main);
  }
  const [first, left] = [shown === null, parse(shown || "")];
  shown = location.hash;
  const { tab, view } = parse(shown);
  const { title, node } = view();
  document.title = `${title} \u00b7 ${DATA.title}`;
  main.replaceChildren(node);
  main.dataset.hash = shown;
  for (const link of document.querySelectorAll("header nav a")) {
    if (link.dataset.tab === tab) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  drawFigures(main);
  scrollTo(0, scrolled.get(shown) || 0);
  if (!first) focusWhereOneWas(node, left);
};

// A page inside a notebook has no address of its own (about:srcdoc): there, a link to a view would
// open the notebook in its frame, while setting the hash stays on the page.
const stayOnPage = (event) => {
  const link = event.target.closest('a[href^="#"]');
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  location.hash = link.getAttribute("href");
};

const start = () => {
  document.querySelector(".brand").append(el("span", { class: "mark", "aria-hidden": "true" }), el("span", {}, DATA.model, " ", el("small", {}, DATA.name)));
  document.querySelector("header nav").append(...VIEWS.map(([name, title]) => el("a", { href: `#${name}`, "data-tab": name }, title)));
  document.getElementById("skip").addEventListener("click", () => main.focus());
  buildHelp();
  history.scrollRestoration = "manual";
  addEventListener("hashchange", showHash);
  if (location.protocol === "about:") addEventListener("click", stayOnPage);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", inkFigures);
  addEventListener("keydown", onKey);
  showHash();
};
