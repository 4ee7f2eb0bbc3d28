// The page of a run, or of several runs laid over each other. It draws again when the server says that a file changed.
import { asTable, card, colour, dash, draw } from "./charts.js";
import { api, byId, complain, duration, fill, h, query, role, say, table, told } from "./dom.js";
import { samples } from "./samples.js";

const runs = JSON.parse(byId("page").dataset.runs);
const charts = new Map(); // by title: {card, chart}
let wanted = false; // whether the curves must be asked for again
let busy = false;

const alone = runs.length === 1;
const controls = () => ({
  smoothing: Number(byId("smoothing").value),
  log: byId("log").checked,
  text: byId("text").checked,
  more: byId("more").value,
});

// -- status ---------------------------------------------------------------------------------------

function button(text, path, run, danger = false) {
  const act = async (event) => {
    event.target.disabled = true;
    try {
      await api(path, { method: "POST", body: { run } });
      say(`${text}: done`);
    } catch (problem) {
      event.target.disabled = false;
      event.target.parentElement.append(h("p", { class: "problem", role: "alert" }, problem.message));
    }
  };
  return h("button", { type: "button", class: danger ? "danger" : "", onclick: act, disabled: role !== "owner" }, text);
}

function status(summary, resume) {
  const left = summary.seconds_left === null ? "" : `, about ${duration(summary.seconds_left)} left`;
  return h(
    "section",
    { class: "card", "data-run": summary.run, "aria-label": `Status of ${summary.run}` },
    alone ? null : h("h3", {}, h("a", { href: query("/run", { run: summary.run }) }, summary.run)),
    h("p", {}, h("span", { class: "badge" }, summary.life), ` ${summary.verb} `, summary.life === "running" ? `${summary.stage || summary.state} ${summary.within}` : ""),
    summary.total ? h("progress", { max: summary.total, value: summary.step, "aria-label": "Progress" }) : null,
    h("p", {}, summary.total ? `step ${told(summary.step)} of ${told(summary.total)}${left}` : `step ${told(summary.step)}`),
    summary.message ? h("p", { class: "problem" }, summary.message) : null,
    summary.life === "running" ? h("p", {}, button("Stop", "/api/runs/stop", summary.run, true)) : null,
    summary.can_resume ? [h("p", {}, button("Resume", "/api/runs/resume", summary.run)), h("pre", {}, resume.join(" "))] : null,
    role !== "owner" && (summary.life === "running" || summary.can_resume)
      ? h("p", { class: "note" }, "To stop or resume a run, open the link that `concordant studio` printed.")
      : null
  );
}

async function about(run) {
  const found = await api(query("/api/run", { run }));
  const old = byId("status").querySelector(`[data-run="${CSS.escape(run)}"]`);
  const hadFocus = old?.contains(document.activeElement);
  const fresh = status(found.summary, found.resume);
  if (old) old.replaceWith(fresh);
  else byId("status").append(fresh);
  if (hadFocus) fresh.querySelector("button:not(:disabled)")?.focus();
  return found;
}

// -- curves ---------------------------------------------------------------------------------------

function traces(curves, several) {
  const names = [...new Set(curves.map((curve) => curve.metric))];
  return curves.flatMap((curve) => {
    const run = runs.indexOf(curve.run);
    const metric = names.indexOf(curve.metric);
    const name = several ? `${curve.run}${names.length > 1 ? ` ${curve.metric}` : ""}` : curve.metric;
    const style = several ? { colour: colour(run), dash: dash(metric) } : { colour: colour(metric) };
    const raw = { name, x: curve.x, y: curve.y, points: curve.points < 60, ...style };
    if (!curve.smooth) return [raw];
    return [{ ...raw, faint: true, points: false }, { name, x: curve.smooth_x, y: curve.smooth, ...style }];
  });
}

async function show(chart) {
  const { smoothing, log, text } = controls();
  const metrics = chart.metrics.map((metric) => metric.name);
  const curves = await api(query("/api/curves", { run: runs, metric: metrics, x: chart.x.name, smoothing, points: 800 }));
  const drawn = traces(curves, !alone);
  const key = chart.title;
  if (!charts.has(key)) {
    const meanings = chart.metrics.map((metric) => `${metric.name}: ${metric.meaning || "a metric of another version"}.`).join(" ");
    const made = card(chart.title, [chart.about, meanings].filter(Boolean).join(" "));
    charts.set(key, made);
    byId("charts").append(made.element);
  }
  const place = charts.get(key).place;
  const x = chart.x.name === "step" ? "step" : `${chart.x.name} (${chart.x.unit})`;
  if (text) {
    place.className = "";
    window.Plotly?.purge?.(place);
    place.removeAttribute("role");
    place.removeAttribute("aria-label");
    fill(place, asTable(chart.title, drawn, x));
  } else {
    if (place.className !== "chart") fill(place);
    place.className = "chart";
    await draw(place, drawn, x, chart.metrics[0].unit, { log, title: chart.title });
  }
}

async function showCharts() {
  if (busy) {
    wanted = true;
    return;
  }
  busy = true;
  try {
    const list = await api(query("/api/charts", { run: runs }));
    const { more } = controls();
    if (more) list.push({ title: more, about: "", x: { name: "step", unit: "" }, metrics: [known.get(more)] });
    const titles = new Set(list.map((chart) => chart.title));
    for (const [title, made] of charts) {
      if (titles.has(title)) continue;
      made.element.remove();
      charts.delete(title);
    }
    if (!list.length) fill(byId("charts"), h("p", { class: "dim" }, "No metrics yet."));
    else if (!charts.size) fill(byId("charts"));
    for (const chart of list) await show(chart);
    await showDistribution();
  } catch (problem) {
    complain(byId("charts"), problem);
    charts.clear();
  } finally {
    busy = false;
  }
  if (wanted) {
    wanted = false;
    await showCharts();
  }
}

async function showDistribution() {
  if (!alone || !hasSamples) return;
  const found = await api(query("/api/distribution", { run: runs[0] }));
  const rows = found.steps.filter((row) => row.split === "eval").length ? found.steps.filter((row) => row.split === "eval") : found.steps;
  if (!rows.length) return;
  const title = "Distribution of the reward";
  if (!charts.has(title)) {
    charts.set(title, card(title, "Of the answers in samples.jsonl: median, quartiles, and the 5th and 95th percentile."));
    byId("charts").append(charts.get(title).element);
  }
  const x = rows.map((row) => row.step);
  const band = (q) => rows.map((row) => row.quantiles[q]);
  const names = ["5 %", "25 %", "median", "75 %", "95 %"];
  const drawn = names.map((name, q) => ({ name, x, y: band(q), colour: colour(0), dash: ["dot", "dash", "solid", "dash", "dot"][q], points: q === 2 }));
  const place = charts.get(title).place;
  if (controls().text) fill(place, asTable(title, drawn, "step"));
  else await draw(place, drawn, "step", "reward", { title });
}

// -- everything else ------------------------------------------------------------------------------

const known = new Map();
let hasSamples = false;

function showFindings(found) {
  const of = found.flatMap(({ summary, findings }) => findings.map((finding) => [summary.run, finding]));
  const cards = of.map(([run, f]) =>
    h(
      "div",
      { class: "card" },
      h("h3", {}, h("span", { class: `badge ${{ error: "bad", warning: "warn" }[f.severity] ?? "dim"}` }, f.severity), ` ${alone ? "" : `${run}: `}${f.seen}`),
      h("p", { class: "text" }, `Step ${f.step ?? "before the first"}. ${f.why}`),
      h("p", { class: "text" }, `Likely cause: ${f.cause}`),
      h("p", { class: "text" }, `Cure: ${f.cure}`),
      h("p", { class: "note" }, "More: ", h("code", {}, `concordant doctor --explain ${f.rule}`))
    )
  );
  fill(byId("findings"), h("h2", {}, "What the doctor found"), cards.length ? cards : h("p", { class: "dim" }, "Nothing."));
}

async function showSettings(found) {
  const place = byId("settings");
  if (alone) {
    const rows = Object.entries(found[0].config).map(([key, value]) => [key, Array.isArray(value) ? value.join(", ") : String(value)]);
    fill(place, h("h2", {}, "Settings"), h("details", {}, h("summary", {}, `All ${rows.length} keys of config.yaml`), table("Settings", ["key", "value"], rows)));
    return;
  }
  const rows = await api(query("/api/differences", { run: runs }));
  const text = (value) => (value === null ? "–" : Array.isArray(value) ? value.join(", ") : String(value));
  fill(place, h("h2", {}, "Settings that differ"), table("Settings in which the runs differ", ["key", ...runs], rows.map((row) => [row.key, ...runs.map((run) => text(row.values[run]))])));
}

function showMetrics(found) {
  for (const run of found) for (const metric of run.metrics) known.set(metric.name, metric);
  const select = byId("more");
  const chosen = select.value;
  fill(select, h("option", { value: "" }, "none"), [...known.keys()].sort().map((name) => h("option", { value: name }, name)));
  select.value = chosen;
}

async function everything() {
  try {
    fill(byId("status"));
    const found = await Promise.all(runs.map(about));
    byId("status").setAttribute("aria-busy", "false");
    hasSamples = found[0].summary.samples;
    showMetrics(found);
    showFindings(found);
    await showCharts();
    if (alone && hasSamples) await samples(byId("samples"), runs[0]);
    await showSettings(found);
  } catch (problem) {
    complain(byId("status"), problem);
    return;
  }
  listen();
}

function listen() {
  const source = new EventSource(query("/api/stream", { run: runs }));
  const first = new Set(runs); // the first event of each run says what the page shows already
  source.addEventListener("changed", async (event) => {
    const summary = JSON.parse(event.data);
    if (first.delete(summary.run)) return;
    try {
      const found = await about(summary.run);
      hasSamples ||= found.summary.samples;
      showMetrics([found]);
      if (alone) showFindings([found]);
      await showCharts();
    } catch (problem) {
      say(problem.message);
    }
  });
  addEventListener("pagehide", () => source.close());
}

byId("controls").addEventListener("submit", (event) => event.preventDefault());
byId("smoothing").addEventListener("input", () => (byId("smoothing-value").textContent = byId("smoothing").value));
for (const id of ["smoothing", "log", "text", "more"]) byId(id).addEventListener("change", showCharts);
document.addEventListener("theme", showCharts);
everything();
