// The list of runs. It asks the interface again every three seconds while the page is seen.
import { api, byId, complain, duration, fill, h, query, table, told } from "./dom.js";

const LIFE = { running: "good", finished: "", stopped: "warn", died: "bad", failed: "bad", unknown: "dim" };
let before = "";

function progress(run) {
  if (!run.total) return told(run.step || run.rows) + (run.step || run.rows ? " steps" : "");
  const words = `${told(run.step)} of ${told(run.total)}`;
  if (run.life !== "running") return words;
  const left = run.seconds_left === null ? "" : `, ${duration(run.seconds_left)} left`;
  return [
    h("progress", { max: run.total, value: run.step, "aria-label": `Progress of ${run.run}` }),
    h("span", {}, `${words}${left}`),
    run.within ? h("span", { class: "note" }, ` ${run.within}`) : null,
  ];
}

function findings(run) {
  const found = Object.entries(run.findings);
  if (!found.length) return "–";
  const colour = { info: "dim", warning: "warn", error: "bad" };
  return found.map(([severity, count]) => h("span", { class: `badge ${colour[severity] ?? ""}` }, `${count} ${severity}`));
}

function row(run) {
  const state = run.life === "running" ? run.stage || run.state : run.life;
  return [
    h("a", { href: query("/run", { run: run.run }) }, run.run),
    run.verb,
    [h("span", { class: `badge ${LIFE[run.life] ?? ""}` }, state), run.message ? h("div", { class: "note text" }, run.message) : null],
    progress(run),
    findings(run),
    run.rows ? h("input", { type: "checkbox", name: "run", value: run.run, "aria-label": `Lay ${run.run} over others` }) : "",
  ].map((cell) => (Array.isArray(cell) ? h("div", {}, cell.filter(Boolean)) : cell));
}

function show(runs) {
  const place = byId("runs");
  const chosen = new Set([...place.querySelectorAll("input:checked")].map((box) => box.value));
  const focused = document.activeElement?.value ?? document.activeElement?.getAttribute?.("href");
  if (!runs.length) {
    fill(place, h("p", {}, "There is no run yet. A run appears here when a command such as "), h("pre", {}, "concordant demo"), h("p", {}, "writes a run folder, or when you start one."));
  } else {
    fill(
      place,
      table("All runs", ["run", "verb", "status", "progress", "doctor", "overlay"], runs.map(row)),
      h("p", { class: "row" }, h("button", { type: "submit" }, "Lay the marked runs over each other"))
    );
  }
  for (const box of place.querySelectorAll("input")) box.checked = chosen.has(box.value);
  if (focused) [...place.querySelectorAll("a, input")].find((e) => (e.value || e.getAttribute("href")) === focused)?.focus();
  place.setAttribute("aria-busy", "false");
}

async function renew() {
  try {
    if (!document.hidden) {
      const runs = await api("/api/runs");
      const now = JSON.stringify(runs);
      if (now !== before) show(runs);
      before = now;
    }
  } catch (problem) {
    complain(byId("runs"), problem);
    before = "";
  }
  setTimeout(renew, 3000);
}

byId("overlay").addEventListener("submit", (event) => {
  event.preventDefault();
  const runs = [...new FormData(event.target).getAll("run")];
  if (runs.length) location.href = query("/run", { run: runs });
});
renew();
