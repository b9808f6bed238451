// The list of concepts: searched, sorted, and walked through by keyboard.

const examplesOf = (concept) => concept.typical[0] || concept.random[0];

const tokenList = (tokens) => tokens.slice(0, 5).map((token) => chip(token[0]));

const COLUMNS = [
  { key: "code", title: "code", of: (c) => c.code, cell: (c) => el("a", { href: codeLink(c.code) }, String(c.code)) },
  { key: "name", title: "name", of: (c) => c.name.toLowerCase(), cell: shownName, shown: () => concepts.some((c) => c.name) },
  { key: "usage", title: "tokens", down: true, of: (c) => c.usage, cell: (c) => c.usage ? count(c.usage) : "unused" },
  { key: "share", title: "share", down: true, of: (c) => c.share, cell: (c) => c.usage ? [bar(c.share / LARGEST_SHARE), percent(c.share)] : "" },
  { key: "tokens", title: "commonest", of: (c) => c.tokens.map((t) => t[0]).join(" ").trim().toLowerCase(), cell: (c) => tokenList(c.tokens) },
  { key: "distinctive", title: "by lift", down: true, of: (c) => c.distinctive.length ? c.distinctive[0][3] : null, cell: (c) => tokenList(c.distinctive) },
  { key: "token_label", title: "token label", down: true, of: (c) => c.token_labels.length ? c.token_labels[0][2] : null, cell: (c) => c.token_labels.length ? [c.token_labels[0][0], " ", el("small", {}, percent(c.token_labels[0][2]))] : "", shown: () => concepts.some((c) => c.token_labels.length) },
  { key: "entropy", title: "entropy", down: true, note: "Entropy over tokens, in nats: 0 is a single token", of: (c) => c.usage ? c.token_entropy : null, cell: (c) => c.usage ? c.token_entropy.toFixed(2) : "" },
  { key: "example", title: "typical context", of: null, cell: (c) => examplesOf(c) ? context(examplesOf(c)) : "" },
].filter((column) => !column.shown || column.shown());

const N_BEFORE = 16;  // characters

const LARGEST_SHARE = Math.max(...concepts.map((concept) => concept.share)) || 1;

// Cut on the left, so that the marked token can be seen.
const context = (example) => {
  const [space, word] = splitSpace(example[3]);
  const before = [...oneLine(example[2] + space)];
  const start = before.length > N_BEFORE ? "\u2026" + before.slice(-N_BEFORE).join("") : before.join("");
  return el("span", { class: "context" }, start, el("mark", {}, oneLine(word)), oneLine(example[4]));
};

const buildRow = (concept) => {
  const row = el("tr", { "data-item": true, "data-code": concept.code, class: concept.usage ? "" : "unused" },
    COLUMNS.map((column) => el("td", { class: column.key }, column.cell(concept))));
  row.addEventListener("click", (event) => {
    if (!event.target.closest("a") && !String(getSelection())) location.hash = codeLink(concept.code);
  });
  return row;
};

// Empty values come last in both directions.
const compare = (column, down) => (a, b) => {
  const [x, y] = [column.of(a), column.of(b)];
  const order = (x === null || x === "") - (y === null || y === "") || (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1);
  return order || a.code - b.code;
};

// The list is built once, so that a reader who comes back finds it searched and sorted as before.
let list = null;
let sorted = { key: "usage", down: true };

const sortBy = (column, body, heads, rows, down) => {
  sorted = { key: column.key, down };
  for (const [key, head] of heads) head.setAttribute("aria-sort", key !== column.key ? "none" : down ? "descending" : "ascending");
  body.append(...[...concepts].sort(compare(column, down)).map((concept) => rows.get(concept.code)));
};

const buildList = () => {
  const rows = new Map(concepts.map((concept) => [concept.code, buildRow(concept)]));
  const body = el("tbody");
  const heads = new Map();
  const header = (column) => {
    const sort = () => sortBy(column, body, heads, rows, sorted.key === column.key ? !sorted.down : Boolean(column.down));
    const content = column.of ? el("button", { type: "button", onclick: sort, title: column.note }, column.title) : column.title;
    const head = el("th", { scope: "col", class: column.key }, content);
    if (column.of) heads.set(column.key, head);
    return head;
  };
  const head = el("thead", {}, el("tr", {}, COLUMNS.map(header)));
  const start = COLUMNS.find((column) => column.key === sorted.key);
  sortBy(start, body, heads, rows, sorted.down);
  const textOf = (row) => haystack(concepts[row.dataset.code]);
  return el("div", {},
    el("h1", { tabindex: "-1" }, "Concepts"),
    searchField("Search names, tokens and examples", [...rows.values()], textOf, "codes"),
    el("table", { class: "codes" }, head, body));
};

const codesView = () => ({ title: "Concepts", node: (list = list || buildList()) });

// The codes before and after one in the list as it is searched and sorted now.
const around = (code) => {
  const rows = list ? [...list.querySelectorAll("[data-item]")].filter((row) => !row.hidden) : [];
  const order = rows.map((row) => Number(row.dataset.code));
  const codes = order.includes(code) ? order : concepts.map((concept) => concept.code);
  const here = codes.indexOf(code);
  return [codes[here - 1], codes[here + 1]];
};
