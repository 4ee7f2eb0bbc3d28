// Draws curves with plotly, or as tables for people who do not see pictures.
import { h, table, told } from "./dom.js";

const COLOURS = ["#1f77b4", "#d1640a", "#2a8f3c", "#c4302b", "#8257b5", "#8c564b", "#c2549d", "#6b6b6b", "#8f8f10", "#0f95a3"];
const DARK = ["#6db3f2", "#ffb066", "#7fd69a", "#ff9d94", "#c3a6f0", "#d2a79c", "#f2a2d6", "#c0c0c0", "#d8d86a", "#6fdbe6"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const ROWS = 12; // of a table in the place of a picture

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const isDark = () => document.documentElement.dataset.theme === "dark";
export const colour = (i) => (isDark() ? DARK : COLOURS)[i % COLOURS.length];

/** Wait for plotly, whose script is loaded after the page was painted. */
export async function plotly() {
  while (!window.Plotly) await new Promise((done) => setTimeout(done, 30));
  return window.Plotly;
}

function layout(x, y, log) {
  const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line"), automargin: true };
  return {
    margin: { t: 8, r: 8, b: 40, l: 48 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: css("--ink"), size: 12 },
    xaxis: { ...axis, title: { text: x } },
    yaxis: { ...axis, title: { text: y }, type: log ? "log" : "linear" },
    legend: { orientation: "h", y: -0.25 },
    showlegend: true,
    hovermode: "closest",
    hoverlabel: { bgcolor: css("--raised"), font: { color: css("--ink") } },
    uirevision: "same", // a zoom stays while new points come
  };
}

/**
 * Draw `traces` into `element`: {name, x, y, colour, dash, faint, points, fill}. `x` and `y` are the titles of the axes.
 * The element gets a text alternative with the last value of each curve.
 */
export async function draw(element, traces, x, y, { log = false, title = "" } = {}) {
  const library = await plotly();
  const shown = traces.map((t) => ({
    type: "scatter",
    mode: t.points ? "markers+lines" : "lines",
    name: t.name,
    x: t.x,
    y: t.y,
    opacity: t.faint ? 0.3 : 1,
    showlegend: !t.faint && !t.hidden,
    hoverinfo: t.faint ? "skip" : undefined,
    line: { color: t.colour ?? colour(0), dash: t.dash ?? "solid", width: t.faint ? 1 : 2 },
    fill: t.fill,
    connectgaps: false,
  }));
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", `${title}. ${traces.filter((t) => !t.faint && !t.hidden).map(spoken).join(" ")}`);
  await library.react(element, shown, layout(x, y, log), { responsive: true, displayModeBar: false });
}

function spoken(trace) {
  const values = trace.y.filter((value) => value !== null);
  if (!values.length) return `${trace.name} has no values.`;
  return `${trace.name}: from ${told(values[0])} to ${told(values.at(-1))}, between ${told(Math.min(...values))} and ${told(Math.max(...values))}.`;
}

/** The same curves as a table of a few rows: the first, the last, and some between. */
export function asTable(caption, traces, x) {
  const shown = traces.filter((t) => !t.faint && !t.hidden);
  const all = [...new Set(shown.flatMap((t) => t.x))].sort((a, b) => a - b);
  const few = all.filter((_, i) => all.length <= ROWS || i === all.length - 1 || i % Math.ceil(all.length / ROWS) === 0);
  const at = shown.map((t) => new Map(t.x.map((value, i) => [value, t.y[i]])));
  return table(caption, [x, ...shown.map((t) => t.name)], few.map((value) => [told(value), ...at.map((of) => told(of.get(value)))]));
}

/** A card with a heading, a place for a picture, and a sentence about it. */
export function card(title, about = "") {
  const place = h("div", { class: "chart" });
  return { place, element: h("section", { class: "card" }, h("h3", {}, title), place, about ? h("p", { class: "note" }, about) : null) };
}

export const dash = (i) => DASHES[i % DASHES.length];
