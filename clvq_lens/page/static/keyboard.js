// Everything can be done without a pointer.

const SHORTCUTS = [
  ["/", "search"],
  ["j, \u2193", "next item of a list; next concept or text"],
  ["k, \u2191", "previous item of a list; previous concept or text"],
  ["\u2190, \u2192", "previous and next concept or text"],
  ["Enter", "open"],
  ["Esc", "back to the list"],
  ["?", "this help"],
];

const help = document.getElementById("help");

const buildHelp = () => {
  help.append(
    el("h2", { id: "help-title" }, "Keyboard shortcuts"),
    el("dl", {}, SHORTCUTS.map(([keys, what]) => el("div", {}, el("dt", {}, keys.split(", ").map((key) => [el("kbd", {}, key), " "])), el("dd", {}, what)))),
    el("form", { method: "dialog" }, el("button", { onclick: (event) => { event.preventDefault(); help.close(); } }, "Close")));
  document.getElementById("help-button").addEventListener("click", () => help.showModal());
};

const goTo = (rel) => document.querySelector(`#main a[rel=${rel}]`)?.click();

const focusSearch = () => {
  if (!document.getElementById("search")) location.hash = "#codes";
  showHash();
  const field = document.getElementById("search");
  field.focus();
  field.select();
};

const walk = (step) => {
  if (shownItems().length) moveInItems(step);
  else goTo(step > 0 ? "next" : "prev");
};

const ACTIONS = {
  "/": focusSearch,
  "?": () => help.showModal(),
  j: () => walk(1),
  k: () => walk(-1),
  ArrowDown: () => shownItems().length ? moveInItems(1) : false,
  ArrowUp: () => shownItems().length ? moveInItems(-1) : false,
  ArrowRight: () => document.querySelector("#main a[rel=next]") ? goTo("next") : false,
  ArrowLeft: () => document.querySelector("#main a[rel=prev]") ? goTo("prev") : false,
  Escape: () => { const up = parentHash(); if (up === null) return false; location.hash = up; },
};

const onKey = (event) => {
  const typing = event.target.closest?.("input, textarea, select");
  if (help.open || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  showHash();  // the event about a new hash may not have arrived yet
  const action = Object.hasOwn(ACTIONS, event.key) ? ACTIONS[event.key] : null;
  if (action && action() !== false) event.preventDefault();
};
