// Answers over training, as text only. Answers that have numbers for each token can be coloured by them.
import { api, complain, fill, h, query, told } from "./dom.js";

const PAGE = 10;
const COLOURED = {
  logratio: "log-prob, policy less reference (nats)",
  logprob: "log-prob under the policy (nats)",
  advantage: "advantage",
  value: "value (reward units)",
};

/** Tokens whose ground says how large the number is: green above 0, red below. The number is in the title too. */
function tokens(row, key) {
  const values = row.tokens[key];
  const size = Math.max(...values.map(Math.abs), 1e-9);
  return h(
    "p",
    { class: "text mono" },
    row.tokens.text.map((text, i) => {
      const token = h("span", { class: "token", title: `${told(values[i])}` }, text);
      const share = Math.min(1, Math.abs(values[i]) / size);
      token.style.backgroundColor = `rgba(var(--${values[i] < 0 ? "minus" : "plus"}), ${(0.45 * share).toFixed(3)})`;
      return token;
    })
  );
}

function asNumbers(row, key) {
  const cells = row.tokens.text.map((text, i) => h("tr", {}, h("th", { scope: "row" }, JSON.stringify(text)), h("td", {}, told(row.tokens[key][i]))));
  return h("details", {}, h("summary", {}, "The numbers of the tokens"), h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "token"), h("th", { scope: "col" }, COLOURED[key]))), h("tbody", {}, cells)));
}

function one(row, key) {
  const facts = ["reward", "gold", "kl", "advantage", "length"].filter((name) => row[name] !== undefined).map((name) => `${name} ${told(row[name])}`);
  const hasNumbers = key && row.tokens?.[key];
  const answers = row.answers ?? [];
  return h(
    "article",
    { class: "card" },
    (Array.isArray(row.prompt) ? row.prompt : []).map((turn) => h("p", { class: "text" }, h("strong", {}, `${turn.role}: `), turn.content)),
    row.response === undefined ? null : hasNumbers ? [tokens(row, key), asNumbers(row, key)] : h("p", { class: "text" }, h("strong", {}, "answer: "), row.response),
    answers.map((answer) => h("p", { class: "text" }, h("strong", {}, `${told(answer.reward)}: `), answer.response)),
    h("p", { class: "note" }, [row.step === undefined ? null : `step ${row.step}`, row.split, ...facts].filter(Boolean).join(" · "))
  );
}

/** The section with a choice of step and split, a search, and the answers. */
export async function samples(place, run) {
  const list = h("div", { "aria-live": "polite" });
  const split = h("select", { id: "split" }, h("option", { value: "" }, "all"), h("option", { value: "eval" }, "held-out prompts"), h("option", { value: "train" }, "learnt from"));
  const step = h("select", { id: "step" }, h("option", { value: "" }, "all"));
  const text = h("input", { id: "search", type: "search", maxlength: 200 });
  const by = h("select", { id: "colouring" }, h("option", { value: "" }, "nothing"), Object.entries(COLOURED).map(([key, name]) => h("option", { value: key }, name)));
  let start = 0;

  async function show() {
    try {
      const found = await api(query("/api/samples", { run, split: split.value, step: step.value, text: text.value, start, most: PAGE }));
      const chosen = step.value;
      fill(step, h("option", { value: "" }, "all"), found.steps.map((value) => h("option", { value }, String(value))));
      step.value = chosen;
      const end = Math.min(start + PAGE, found.total);
      const move = (by, words) => h("button", { type: "button", class: "quiet", disabled: by < 0 ? start === 0 : end >= found.total, onclick: () => { start = Math.max(0, start + by); show(); } }, words);
      fill(
        list,
        h("p", { class: "note" }, found.total ? `${start + 1} to ${end} of ${found.total}` : "No answer fits."),
        found.rows.map((row) => one(row, by.value)),
        by.value && !found.rows.some((row) => row.tokens?.[by.value]) ? h("p", { class: "note" }, "These answers have no numbers for each token. Answers that ppo learnt from have them.") : null,
        h("p", { class: "row" }, move(-PAGE, "Earlier"), move(PAGE, "Later"))
      );
    } catch (problem) {
      complain(list, problem);
    }
  }

  const again = () => {
    start = 0;
    show();
  };
  for (const control of [split, step, text, by]) control.addEventListener("change", again);
  const labelled = (words, control) => h("span", {}, h("label", { for: control.id }, words), " ", control);
  fill(place, h("h2", {}, "Answers over training"), h("form", { class: "row", onsubmit: (event) => { event.preventDefault(); again(); } }, labelled("Prompts", split), labelled("Step", step), labelled("Contains", text), labelled("Colour tokens by", by)), list);
  await show();
}
