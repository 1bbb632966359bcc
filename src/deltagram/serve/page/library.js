// Shows what the library holds: the picture of its bytes with its words, and a row a variant.

import { percent, size } from "/page/answers.js";

const FEW = 12; // rows before the rest is asked for
const MANY = 60; // blocks up to which each checkpoint is drawn on its own
let everything = false; // once they were asked for
const byId = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function showLibrary({ library, states }) {
  const variants = library.variants ?? [];
  byId("count").textContent = variants.length;
  byId("noun").textContent = variants.length === 1 ? "variant" : "variants";
  byId("lead").textContent = `Fine-tunes of ${library.base.name}, kept as what they change and answered from one model in memory.`;
  byId("empty").hidden = variants.length > 0;
  byId("variants").hidden = variants.length === 0;
  picture(library, variants.length);
  const loaded = new Map(states.map((state) => [state.name, state]));
  const rows = variants.map((variant) => row(variant, loaded.get(variant.name)));
  byId("rows").replaceChildren(...rows);
  const more = byId("all");
  more.hidden = everything || rows.length <= FEW;
  if (more.hidden) return;
  more.textContent = `Show all ${rows.length} variants`;
  for (const later of rows.slice(FEW)) later.hidden = true;
  more.onclick = () => {
    everything = true;
    for (const later of rows) later.hidden = false;
    more.hidden = true;
    rows[FEW].tabIndex = -1;
    rows[FEW].focus();
  };
}

function picture(library, count) {
  const { stored_bytes: stored, full_bytes: full, base } = library;
  const share = (bytes) => `${(100 * bytes) / full}%`;
  const block = (kind, bytes) => {
    const drawn = make("div", { className: `block ${kind}` });
    drawn.style.width = `calc(${share(bytes)} - 2px)`;
    return drawn;
  };
  const bar = (kind, label, bytes, blocks) =>
    make("div", { className: `bar ${kind}` },
      make("p", {}, make("span", { textContent: label }), make("strong", { textContent: size(bytes) })),
      make("div", { className: "track" }, ...blocks));
  const together = count === 1 ? "The base and its variant" : `The base and its ${count} variants`;
  const each = count + 1 > MANY ? "many" : "";
  byId("picture").replaceChildren(
    bar("kept", together, stored, [block("", base.bytes), ...(count ? [block("variants", stored - base.bytes)] : [])]),
    bar("full", `As ${count + 1} full checkpoints`, full, Array.from({ length: count + 1 }, () => block(each, base.bytes))),
  );
  byId("picture-text").textContent = count
    ? `Together they take ${size(stored)}: ${size(base.bytes)} for the base, ${size(stored - base.bytes)} for ${count === 1 ? "the variant" : "all variants"}. ` +
      `As full checkpoints they would take ${size(full)}, ${(full / stored).toFixed(1)} times as much.`
    : `The base takes ${size(base.bytes)}.`;
}

function row(variant, state) {
  const cell = (label, text, className = "") => {
    const made = make("td", { className, textContent: text });
    made.dataset.label = label;
    made.setAttribute("role", "cell");
    return made;
  };
  const name = make("th", { scope: "row", textContent: variant.name });
  name.setAttribute("role", "rowheader");
  const quality = Object.entries(variant.quality ?? {}).map(([metric, value]) => `${metric} ${value}`);
  const made = make("tr", {}, name,
    cell("Size", size(variant.bytes), "number"),
    cell("Smaller by", variant.rate ? `${variant.rate >= 10 ? Math.round(variant.rate) : variant.rate}×` : "", "number"),
    cell("Kept", variant.keep ? percent(variant.keep, variant.keep < 0.01 ? 2 : 0) : variant.kind === "adapter" ? "all" : "–", "number"),
    cell("Method", variant.kind === "adapter" ? "LoRA adapter" : variant.method),
    cell("Values", variant.values),
    cell("Memory", state?.loaded ? size(state.nbytes) : "on disk", state?.loaded ? "in" : ""),
    cell("Quality", quality.join(", ") || "not recorded"));
  made.setAttribute("role", "row");
  return made;
}
