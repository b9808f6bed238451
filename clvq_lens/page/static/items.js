// A searchable list of items that lead somewhere: concepts and texts.

// The items of the shown view that the search field, j, k, the arrows and Enter act on.
const shownItems = () => [...document.querySelectorAll("#main [data-item]")].filter((item) => !item.hidden);

const itemLink = (item) => item.querySelector("a");

const moveInItems = (step) => {
  const items = shownItems();
  const now = items.findIndex((item) => item.contains(document.activeElement));
  const next = now < 0 ? (step > 0 ? 0 : items.length - 1) : now + step;
  const item = items[Math.min(items.length - 1, Math.max(0, next))];
  if (!item) return;
  itemLink(item).focus({ preventScroll: true });
  item.scrollIntoView({ block: "nearest" });
};

// A search field that hides every item in which one of its words is missing.
const searchField = (label, items, textOf, noun) => {
  const found = el("output", { class: "found", "aria-live": "polite" });
  const texts = new Map();
  const search = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let n = 0;
    for (const item of items) {
      if (words.length && !texts.has(item)) texts.set(item, textOf(item));
      item.hidden = !words.every((word) => texts.get(item).includes(word));
      n += item.hidden ? 0 : 1;
    }
    found.textContent = words.length ? `${count(n)} of ${count(items.length)} ${noun}` : `${count(n)} ${noun}`;
  };
  const keys = (event) => {
    const first = shownItems()[0];
    if (event.key === "Enter" && first) itemLink(first).click();
    else if (event.key === "ArrowDown" && first) moveInItems(1);
    else if (event.key === "Escape" && input.value) { input.value = ""; search(); }
    else if (event.key === "Escape") input.blur();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const input = el("input", {
    type: "search", id: "search", placeholder: label, "aria-label": label, autocomplete: "off",
    spellcheck: "false", oninput: search, onkeydown: keys,
  });
  search();
  return el("div", { class: "search", role: "search" }, input, found);
};
