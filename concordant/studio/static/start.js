// The form that starts a run. Its questions come from the interface, which makes them from the config classes.
import { api, byId, complain, fill, h, query, say } from "./dom.js";

let questions = [];
let kept = {}; // what the visitor has typed, by key, also while another verb's questions are shown
let timer = 0;
let asked = 0; // number of the newest request for the command line

function control(q) {
  const id = `key-${q.key}`;
  const attributes = { id, name: q.key, "aria-describedby": `${id}-help` };
  if (q.kind === "choice" || q.kind === "switch") {
    const names = q.kind === "switch" ? ["true", "false"] : q.choices;
    const options = [h("option", { value: "" }, `default (${q.default || "empty"})`), names.filter(Boolean).map((name) => h("option", { value: name }, name))];
    return h("select", attributes, options);
  }
  const number = q.kind === "number" ? { inputmode: "decimal" } : {};
  return h("input", { ...attributes, ...number, placeholder: q.default || (q.kind === "list" ? "[a, b]" : ""), autocomplete: "off", required: q.needed });
}

function field(q) {
  const made = control(q);
  made.value = kept[q.key] ?? "";
  const about = [q.needed ? "needed" : "", q.help, q.range, q.default ? `default ${q.default}` : ""].filter(Boolean).join("; ");
  return h("div", { class: "field" }, h("label", { for: made.id }, h("code", {}, q.key)), made, h("span", { class: "help", id: `${made.id}-help` }, about));
}

function show() {
  const every = byId("every").checked;
  const shown = questions.filter((q) => every || q.common || q.needed || kept[q.key]);
  const sections = Map.groupBy(shown, (q) => (q.key.includes(".") ? q.key.slice(0, q.key.lastIndexOf(".")) : ""));
  const groups = [...sections].map(([name, group]) => h("fieldset", {}, h("legend", {}, name || "keys of the verb"), h("div", { class: "fields" }, group.map(field))));
  fill(byId("questions"), groups);
  byId("questions").setAttribute("aria-busy", "false");
}

const given = () => ({
  verb: byId("verb").value,
  name: byId("name").value || `${byId("verb").value}-1`,
  preset: byId("preset").value,
  values: Object.fromEntries(questions.filter((q) => kept[q.key]).map((q) => [q.key, kept[q.key]])),
});

async function command() {
  const mine = ++asked;
  try {
    const found = await api("/api/command", { method: "POST", body: given() });
    if (mine === asked) fill(byId("command"), found.problem || found.command);
  } catch (problem) {
    if (mine === asked) fill(byId("command"), problem.message);
  }
}

async function load() {
  const verb = byId("verb").value;
  try {
    const form = await api(query("/api/form", { verb }));
    questions = form.questions;
    fill(byId("summary"), `${form.summary}. An empty field keeps the default.`);
    const chosen = byId("preset").value;
    fill(byId("preset"), h("option", { value: "" }, "none"), form.presets.map((name) => h("option", {}, name)));
    byId("preset").value = chosen;
    show();
    await command();
  } catch (problem) {
    complain(byId("questions"), problem);
  }
}

byId("questions").addEventListener("input", (event) => {
  kept[event.target.name] = event.target.value;
  clearTimeout(timer);
  timer = setTimeout(command, 250);
});
byId("verb").addEventListener("change", load);
byId("every").addEventListener("change", show);
for (const id of ["name", "preset"]) byId(id).addEventListener("change", command);
byId("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const submit = event.submitter ?? event.target.querySelector("[type=submit]");
  submit.disabled = true; // a double click starts one run
  try {
    const started = await api("/api/runs/start", { method: "POST", body: given() });
    say(`${started.run} has started`);
    fill(byId("result"), h("p", {}, "The run has started. Its page opens when its folder is there."), h("pre", { id: "printed" }));
    await follow(started.run);
  } catch (problem) {
    complain(byId("result"), problem);
    submit.disabled = false;
  }
});

/** Wait for the folder of the run, then open its page. If the command ends before, show what it printed. */
async function follow(run) {
  for (;;) {
    await new Promise((done) => setTimeout(done, 700));
    const runs = await api("/api/runs");
    const printed = await api(query("/api/printed", { run }));
    const mine = runs.find((one) => one.run === run);
    fill(byId("printed"), printed.text);
    if (mine && mine.life !== "unknown" && mine.state !== "preparing") {
      location.href = query("/run", { run });
      return;
    }
    if (printed.exit_code !== null && !mine) throw new Error(printed.text || `The command ended with code ${printed.exit_code}.`);
  }
}
load();
