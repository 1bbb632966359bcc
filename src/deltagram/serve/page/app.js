// The page: the key if one is asked for, the library, and two variants asked the same.

import { Refused, ask, classify, differences, likeness, percent, proceed, runs, useKey } from "/page/answers.js";
import { make, showLibrary } from "/page/library.js";

const byId = (id) => document.getElementById(id);
const SIDES = ["left", "right"];
const EXAMPLES = {
  classify: "The story is slow, but the last half hour makes up for it.",
  generate: "When the train left the station,",
  embed: "The story is slow, but the last half hour makes up for it.",
};
let running = null;

async function open() {
  let found;
  try {
    found = await (await ask("/library")).json();
  } catch (fault) {
    if (!(fault instanceof Refused)) throw fault;
    const locked = fault.status === 401;
    byId("gate").hidden = !locked;
    byId("lead").textContent = locked ? "Its library and its answers are behind a key." : fault.message;
    byId("gate-fault").textContent = locked && byId("key").value ? "This is not the server's key." : "";
    if (locked) byId("key").focus();
    return;
  }
  showLibrary(found);
  choices(found.states);
  byId("gate").hidden = true;
  for (const id of ["library", "try"]) byId(id).hidden = false;
}

function choices(states) {
  const names = states.map((state) => state.name);
  for (const [number, side] of SIDES.entries()) {
    const select = byId(side);
    const chosen = select.value || names[Math.min(names.length - 1, names.length > 2 ? number + 1 : number)];
    select.replaceChildren(...names.map((name) => make("option", { value: name, textContent: name === "base" ? "base (no variant)" : name })));
    select.value = chosen;
  }
  const able = new Set(states.flatMap((state) => state.tasks));
  const unsure = states.some((state) => !state.tasks.length); // it was not in memory yet
  const radios = [...document.querySelectorAll("input[name=task]")];
  for (const radio of radios) radio.disabled = !unsure && !able.has(radio.value);
  const writes = able.has("generate") && !able.has("classify");
  if (radios.find((radio) => radio.checked).disabled || writes) {
    radios.find((radio) => (writes ? radio.value === "generate" : !radio.disabled)).checked = true;
  }
  showTask();
}

const task = () => document.querySelector("input[name=task]:checked").value;

function showTask() {
  const chosen = task();
  byId("second").hidden = chosen !== "embed";
  byId("other").required = chosen === "embed";
  byId("longest").hidden = byId("heat").hidden = chosen !== "generate";
  if (Object.values(EXAMPLES).includes(byId("text").value)) byId("text").value = EXAMPLES[chosen];
  byId("text-label").textContent = { classify: "Text", generate: "Beginning of a text", embed: "First text" }[chosen];
}

async function submit(event) {
  event.preventDefault();
  running?.abort();
  const mine = (running = new AbortController());
  byId("go").disabled = true;
  byId("stop").hidden = false;
  byId("answers").hidden = false;
  byId("verdict").textContent = "";
  for (const side of SIDES) {
    byId(`${side}-name`).textContent = byId(side).value;
    byId(`${side}-answer`).replaceChildren(make("p", { className: "note", textContent: "Waiting for the answer." }));
    byId(`${side}-foot`).textContent = "";
  }
  const ways = { classify: classes, generate: texts, embed: vectors };
  const found = await Promise.allSettled(SIDES.map((side) => ways[task()].one(side, mine.signal)));
  if (mine.signal.aborted && running !== mine) return;
  found.forEach(({ reason }, number) => reason && showFault(SIDES[number], reason));
  const done = found.every(({ status }) => status === "fulfilled");
  byId("verdict").textContent = done ? ways[task()].both(found.map(({ value }) => value)) : faultText(found);
  byId("go").disabled = false;
  byId("stop").hidden = true;
  refresh();
}

const faultText = (found) =>
  found.some(({ reason }) => reason?.name === "AbortError") ? "Stopped." : "There is nothing to compare: not both variants answered.";

function showFault(side, fault) {
  if (fault.name === "AbortError") {
    byId(`${side}-foot`).textContent = "Stopped before the end.";
    return;
  }
  byId(`${side}-answer`).replaceChildren(make("p", { className: "fault", textContent: fault.message }));
}

async function refresh() {
  const found = await ask("/library").then((response) => response.json()).catch(() => null);
  if (found) showLibrary(found);
}

const sameVariant = () => byId("left").value === byId("right").value;

const classes = {
  one: (side, signal) => classify(byId(side).value, byId("text").value, signal),
  both([left, right]) {
    const names = [...new Set([...Object.keys(left.scores), ...Object.keys(right.scores)])];
    const show = (side, own, other) => byId(`${side}-answer`).replaceChildren(bars(names, own, other));
    show("left", left, right);
    show("right", right, left);
    const gaps = names.map((name) => [Math.abs((left.scores[name] ?? 0) - (right.scores[name] ?? 0)), name]);
    const [gap, name] = gaps.reduce((most, next) => (next[0] > most[0] ? next : most));
    for (const side of SIDES) byId(`${side}-foot`).textContent = gap ? "The line across a bar is the other variant's value." : "";
    const labels = left.label === right.label ? `Both say ${left.label}.` : `They disagree: ${left.label} against ${right.label}.`;
    return gap < 0.0005 ? `${labels} Their probabilities are the same.` : `${labels} They differ most on ${name}, by ${(100 * gap).toFixed(1)} points.`;
  },
};

function bars(names, own, other) {
  return make("dl", { className: "classes" }, ...names.map((name) => {
    const [mine, theirs] = [own.scores[name] ?? 0, other.scores[name] ?? 0];
    const [value, tick] = [make("div", { className: "value" }), make("div", { className: "tick" })];
    value.style.width = `${100 * mine}%`;
    tick.style.left = `${100 * theirs}%`;
    const scale = make("dd", { className: "scale" }, value, tick);
    scale.setAttribute("aria-hidden", "true");
    return make("div", { className: name === own.label ? "first" : "" },
      make("dt", { textContent: name }), make("dd", { textContent: percent(mine) }), scale);
  }));
}

const texts = {
  async one(side, signal) {
    const [prompt, written] = [byId("text").value, make("span")];
    const given = make("span", { className: "given", textContent: prompt });
    byId(`${side}-answer`).replaceChildren(make("p", { className: "text" }, given, written));
    const how = { max_tokens: Number(byId("tokens").value), temperature: Number(byId("temperature").value), seed: 0 };
    const ended = await proceed(byId(side).value, prompt, how, (piece) => written.append(piece), signal);
    const why = ended.finish === "stop" ? "the text ended" : "the limit was reached";
    byId(`${side}-foot`).textContent = `${ended.tokens} tokens; ${why}.`;
    return { text: written.textContent, written };
  },
  both([left, right]) {
    const marked = differences(left.text, right.text);
    [left, right].forEach(({ written }, number) =>
      written.replaceChildren(...runs(marked[number]).map(([words, shared]) => (shared ? words : make("mark", { textContent: words })))));
    const [one, two] = marked.map((list) => list.filter(([, shared]) => !shared).length);
    if (!one && !two) return sameVariant() ? "The same variant twice: the same text." : "Both go on with the same text.";
    return `They differ in ${one} of ${marked[0].length} words on the left and ${two} of ${marked[1].length} on the right, marked below.`;
  },
};

const vectors = {
  async one(side, signal) {
    const found = await likeness(byId(side).value, [byId("text").value, byId("other").value], signal);
    byId(`${side}-answer`).replaceChildren(
      make("p", { className: "likeness", textContent: found.toFixed(3) }),
      make("p", { className: "note", textContent: "cosine of the two texts: 1 is the same direction, 0 unrelated" }));
    return found;
  },
  both([left, right]) {
    const gap = Math.abs(left - right);
    if (gap < 0.0005) return "Both see the two texts as equally alike.";
    return `${byId(left > right ? "left" : "right").value} sees them as more alike, by ${gap.toFixed(3)}.`;
  },
};

byId("ask").addEventListener("submit", submit);
byId("stop").addEventListener("click", () => running?.abort());
for (const radio of document.querySelectorAll("input[name=task]")) radio.addEventListener("change", showTask);
byId("gate-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key").value);
  open();
});
showTask();
open();
