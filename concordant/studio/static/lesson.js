// A lesson: it sends the numbers to the interface and shows what comes back as facts, a picture and a table.
import { asTable, colour, draw } from "./charts.js";
import { api, byId, complain, fill, h, query, table, told } from "./dom.js";

const form = byId("inputs");
let newest = 0;

async function show() {
  const mine = ++newest;
  let found;
  try {
    found = await api(query(`/api/learn/${form.dataset.lesson}`, Object.fromEntries(new FormData(form))));
  } catch (problem) {
    if (mine === newest) complain(byId("facts"), problem);
    return;
  }
  if (mine !== newest) return;
  fill(byId("facts"), table("Results", ["quantity", "value"], Object.entries(found.facts).map(([name, value]) => [name, told(value)])));
  const traces = found.curves.map((curve, i) => ({ ...curve, colour: colour(i), points: curve.x.length < 20 }));
  const place = byId("picture");
  if (!traces.length) fill(place);
  else if (byId("text").checked) fill(place, asTable(`${found.y} by ${found.x}`, traces, found.x));
  else {
    if (!place.querySelector(".chart")) fill(place, h("div", { class: "chart" }));
    await draw(place.querySelector(".chart"), traces, found.x, found.y, { title: document.querySelector("h1").textContent });
  }
  fill(byId("table"), found.rows.length ? table("The numbers", found.heads, found.rows.map((row) => row.map(told))) : null);
}

for (const slider of form.querySelectorAll("[data-for]")) {
  const number = byId(slider.dataset.for);
  slider.addEventListener("input", () => (number.value = slider.value));
  number.addEventListener("input", () => (slider.value = number.value));
}
/** The runs that a lesson about a run can show. */
async function listRuns(select) {
  if (!select) return;
  try {
    const { recorded, runs } = await api("/api/learn-runs");
    fill(select, h("option", { value: "" }, recorded), runs.map((name) => h("option", { value: name }, name)));
  } catch (problem) {
    complain(byId("facts"), problem);
  }
}

form.addEventListener("input", show);
form.addEventListener("submit", (event) => event.preventDefault());
byId("text").addEventListener("change", show);
document.addEventListener("theme", show);
listRuns(byId("in-run")).then(show);
