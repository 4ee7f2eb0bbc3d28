// What every page needs: elements whose content is text only, and requests to the interface below /api.

/** An element. A child that is a string becomes text, so no data can become markup. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** The key of a new vote: 32 random digits. crypto.randomUUID exists only where the traffic is encrypted or stays on this machine. */
export const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** Put `children` in the place of everything inside `element`. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
}

/** Say something to people who do not see the page. */
export function say(text) {
  byId("said").textContent = text;
}

const meta = (name) => document.querySelector(`meta[name=${name}]`)?.content ?? "";
export const role = meta("role");

/** The answer of the interface as an object. An error is thrown with the sentence and the status of the server. */
export async function api(path, { method = "GET", body, signal } = {}) {
  const headers = { accept: "application/json" };
  if (method !== "GET") headers["x-csrf-token"] = meta("csrf");
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new Error("The studio does not answer. Is `concordant studio` still open?");
  }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(found.detail ?? `The server answered ${answer.status}.`), { status: answer.status });
  return found;
}

/** `path?name=value&…`; a list gives its name several times, and an empty value is left out. */
export function query(path, values) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(values))
    for (const item of Array.isArray(value) ? value : [value])
      if (item !== "" && item !== null && item !== undefined) search.append(name, item);
  return `${path}?${search}`;
}

/** A number for people: four digits, and no digits that nobody reads. */
export function told(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

/** A time for people: "1 h 12 min". */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** A table with a caption. `rows` are lists of texts or elements; the first cell of a row is its heading. */
export function table(caption, heads, rows) {
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    h(
      "table",
      {},
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, i) => (i ? h("td", {}, cell) : h("th", { scope: "row" }, cell))))))
    )
  );
}

/** Show an error where `element` stands. */
export function complain(element, problem) {
  fill(element, h("p", { class: "problem", role: "alert" }, problem.message ?? String(problem)));
}
