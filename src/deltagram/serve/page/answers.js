// Asks the server for one answer, and tells where two answers differ. Nothing here touches the page.

let key = "";

export function useKey(text) {
  key = text;
}

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function ask(path, body, signal) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const options = { headers, signal };
  if (body) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    throw new Refused(0, "The server does not answer. Is it still running?");
  }
  if (!response.ok) {
    const said = await response.json().catch(() => null);
    throw new Refused(response.status, said?.error?.message ?? `The server answered with status ${response.status}.`);
  }
  return response;
}

export const classify = async (model, input, signal) =>
  (await (await ask("/classify", { model, input }, signal)).json()).data[0];

export async function likeness(model, input, signal) {
  const { data } = await (await ask("/v1/embeddings", { model, input }, signal)).json();
  return data[0].embedding.reduce((sum, value, i) => sum + value * data[1].embedding[i], 0);
}

// The text as it comes: `tell` gets each piece; the result says how it ended.
export async function proceed(model, prompt, how, tell, signal) {
  const asked = { model, prompt, stream: true, stream_options: { include_usage: true }, ...how };
  const response = await ask("/v1/completions", asked, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const ended = { finish: "", tokens: 0 };
  let kept = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return ended;
    const lines = (kept + value).split("\n\n");
    kept = lines.pop();
    for (const line of lines) {
      if (line === "data: [DONE]") continue;
      const event = JSON.parse(line.slice("data: ".length));
      if (event.error) throw new Refused(500, event.error.message);
      if (event.usage) ended.tokens = event.usage.completion_tokens;
      const choice = event.choices[0];
      if (choice?.text) tell(choice.text);
      if (choice?.finish_reason) ended.finish = choice.finish_reason;
    }
  }
}

// Words with the space before them; joined they are the text.
const words = (text) => text.match(/\s*\S+|\s+$/g) ?? [];

// The words of each text as [word, shared with the other], by their longest common subsequence.
export function differences(one, two) {
  const [a, b] = [words(one), words(two)];
  const same = (i, j) => a[i].trim() === b[j].trim();
  const longest = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      longest[i][j] = same(i, j) ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
    }
  }
  const [left, right] = [[], []];
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && same(i, j)) {
      left.push([a[i++], true]);
      right.push([b[j++], true]);
    } else if (j === b.length || (i < a.length && longest[i + 1][j] >= longest[i][j + 1])) {
      left.push([a[i++], false]);
    } else {
      right.push([b[j++], false]);
    }
  }
  return [left, right];
}

// The same as runs: [text, shared], the space before a run of differing words in the run before it.
export function runs(marked) {
  const found = [];
  for (const [word, shared] of marked) {
    const last = found.at(-1);
    if (last && last[1] === shared) {
      last[0] += word;
      continue;
    }
    const bare = word.trimStart();
    if (shared) found.push([word, true]);
    else found.push([word.slice(0, word.length - bare.length), true], [bare, false]);
  }
  return found.filter(([text]) => text);
}

export function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) {
    bytes /= 1000;
    unit += 1;
  }
  return `${unit === 0 || bytes >= 100 ? Math.round(bytes) : bytes.toPrecision(3)} ${units[unit]}`;
}

export const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
