// Building the page. Text enters it as text nodes and attributes, never as markup.

const el = (tag, properties = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
};

const section = (title, ...children) =>
  el("section", {}, el("h2", {}, title), ...children);

// ---- numbers ---------------------------------------------------------------------------------

const isNumber = (value) => typeof value === "number";

const count = (n) => n.toLocaleString("en-US");

const percent = (fraction) => {
  const value = 100 * fraction;
  return `${value >= 10 ? value.toFixed(0) : value >= 0.1 ? value.toFixed(1) : value.toPrecision(1)} %`;
};

const short = (value) => {
  if (!isNumber(value)) return "\u2013";
  if (Number.isInteger(value)) return count(value);
  return Math.abs(value) >= 1000 ? count(Math.round(value)) : String(Number(value.toPrecision(3)));
};

// Numbers beside each other, in so many digits that different ones look different.
const toldApart = (...values) => {
  const different = new Set(values).size;
  for (let digits = 3; digits <= 17; digits += 1) {
    const texts = values.map((value) => Number.isInteger(value) ? count(value) : String(Number(value.toPrecision(digits))));
    if (new Set(texts).size === different || digits === 17) return texts;
  }
};

const signed = (value) => `${value < 0 ? "\u2212" : "+"}${Math.abs(value).toPrecision(2)}`;

// ---- texts -----------------------------------------------------------------------------------

const MARKS = { " ": "\u2423", "\n": "\u21b5", "\t": "\u21e5" };

// White space of a token can be seen, since it belongs to the token, and so can control characters.
const visible = (token) => token.replace(/[ \p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (character) =>
  MARKS[character] || `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`);

// The same for texts of several words, where only spaces at the ends cannot be seen.
const visibleEnds = (text) => String(text ?? "").replace(/^ +| +$/g, (spaces) => "\u2423".repeat(spaces.length)).replaceAll("\n", "\u21b5");

const oneLine = (text) => text.replaceAll("\n", "\u21b5");

const chip = (token) => el("span", { class: "chip" }, visible(token) || "\u2205");

// A mark covers the word without the space before it.
const splitSpace = (token) => {
  const space = token.trim() ? token.match(/^\s*/)[0] : "";
  return [space, token.slice(space.length)];
};

const bar = (fraction) =>
  el("span", { class: "bar", "aria-hidden": "true" },
    el("span", { style: `inline-size: ${(100 * Math.min(1, Math.max(0, fraction))).toFixed(2)}%` }));
