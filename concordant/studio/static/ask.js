// Voting on pairs, by keys or buttons. A vote has a key, and is sent until the server says that the vote is stored.
import { api, byId, complain, fill, h, newKey, say } from "./dom.js";

const VIEWS = ["arenas", "instructions", "voting", "done"];
const SIDES = { ArrowLeft: "left", ArrowRight: "right", t: "tie", b: "bad", s: "skip" };
const WAITS = [300, 1000, 3000, 5000]; // milliseconds between tries, while the server or its database is away
const TOLD = { left: "The left answer was chosen.", right: "The right answer was chosen.", tie: "A tie.", bad: "Both are bad.", skip: "Skipped." };

let rater = "";
let arena = null;
let asked = null;
let last = ""; // key of the vote that undo takes back
let busy = false;

const store = (name) => `concordant vote ${rater} ${name}`;
const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

function view(name, focus) {
  for (const one of VIEWS) byId(one).hidden = one !== name;
  byId(focus)?.focus();
}

/** Do something with the server while no key counts. */
async function alone(work) {
  if (busy) return;
  busy = true;
  try {
    await work();
    fill(byId("problem"));
  } catch (problem) {
    complain(byId("problem"), problem);
  } finally {
    busy = false;
  }
}

/** Send until the server answers. A refusal is an answer: it is thrown. */
async function sent(path, body) {
  for (let i = 0; ; i++) {
    try {
      return await api(path, { method: "POST", body });
    } catch (problem) {
      if (problem.status && problem.status !== 503 && problem.status !== 429) throw problem;
      complain(byId("problem"), new Error(`${problem.message} Your vote is kept on this page and is sent again.`));
      await pause(WAITS[Math.min(i, WAITS.length - 1)]);
    }
  }
}

/** The vote stands in the browser's store until it is stored, so that a page that was closed sends it when it opens. */
async function vote(body) {
  localStorage.setItem(store(body.arena), JSON.stringify(body));
  try {
    const stored = await sent("/api/ask/vote", body);
    localStorage.removeItem(store(body.arena));
    return stored;
  } catch (problem) {
    if ([404, 409, 422].includes(problem.status)) localStorage.removeItem(store(body.arena)); // it will never be stored
    throw problem;
  }
}

function show(found) {
  asked = found.asked;
  last = found.last;
  for (const id of ["undo", "undo-last"]) byId(id).disabled = !last;
  if (!asked) {
    byId("count").textContent = last ? "You have voted." : "You have not voted yet.";
    view("done", "thanks");
    return;
  }
  byId("question").textContent = arena.question;
  byId("progress").textContent = `You have voted on ${asked.done} of these pairs.`;
  const line = (m) => h("div", { class: "text" }, h("strong", {}, `${m.role}: `), m.content);
  fill(byId("prompt"), asked.prompt.map(line));
  byId("left").textContent = asked.left;
  byId("right").textContent = asked.right;
  for (const box of byId("strength").querySelectorAll("input")) box.checked = false;
  byId("reason").value = "";
  view("voting", "question");
}

const ask = async () => show(await sent("/api/ask/next", { arena: arena.name }));

const choose = (side) =>
  alone(async () => {
    if (!asked) return;
    const strength = side === "left" || side === "right" ? byId("strength").querySelector("input:checked")?.value : null;
    const body = { arena: arena.name, key: newKey(), pair: asked.pair, side, reason: byId("reason").value };
    const stored = await vote({ ...body, strength: strength ? Number(strength) : null });
    say(stored.counts ? `${TOLD[side]} Here is the next pair.` : "Another vote of yours stood already. Here is the next pair.");
    await ask();
  });

const undo = () =>
  alone(async () => {
    if (!last) return;
    await sent("/api/ask/undo", { arena: arena.name, key: last });
    say("The last vote is undone. Here is its pair again.");
    await ask();
  });

function instruct() {
  byId("own").textContent = [arena.question, arena.instructions].filter(Boolean).join("\n\n");
  byId("begin").textContent = asked ? "Go on" : "Begin";
  view("instructions", "begin");
}

async function enter(one) {
  arena = one;
  asked = null;
  const kept = localStorage.getItem(store(arena.name)); // a page was closed before its vote was stored
  if (kept) await alone(() => vote(JSON.parse(kept)).catch(() => null));
  instruct();
}

async function open() {
  try {
    const found = await api("/api/ask/arenas");
    rater = found.rater;
    const left = (one) => `${one.name}: ${one.question} (${one.done} done, ${one.left} left)`;
    const buttons = found.arenas.map((one) => h("p", {}, h("button", { type: "button", onclick: () => enter(one) }, left(one))));
    fill(byId("arenas"), h("h2", {}, `What shall be compared, ${rater}?`), buttons.length ? buttons : h("p", {}, "There is no pair to vote on yet."));
    const wanted = new URLSearchParams(location.search).get("arena");
    const chosen = found.arenas.length === 1 ? found.arenas[0] : found.arenas.find((one) => one.name === wanted);
    if (chosen) await enter(chosen);
  } catch (problem) {
    complain(byId("arenas"), problem);
  }
  byId("arenas").setAttribute("aria-busy", "false");
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return; // a key that is held votes once
  if (event.target === byId("reason")) {
    if (event.key === "Enter" || event.key === "Escape") byId("question").focus();
    return;
  }
  const isDone = !byId("done").hidden;
  if (event.key === "u" && (isDone || !byId("voting").hidden)) undo();
  if (byId("voting").hidden) return;
  if (event.target.name === "strength" && event.key.startsWith("Arrow")) event.target.blur();
  if (SIDES[event.key]) choose(SIDES[event.key]);
  else if (["1", "2", "3"].includes(event.key)) byId("strength").querySelector(`[value="${event.key}"]`).checked = true;
  else if (event.key === "r") byId("reason").focus();
  else if (event.key === "i") instruct();
  else return;
  event.preventDefault();
});
for (const button of document.querySelectorAll("[data-side]")) button.addEventListener("click", () => choose(button.dataset.side));
byId("undo").addEventListener("click", undo);
byId("undo-last").addEventListener("click", undo);
byId("again").addEventListener("click", instruct);
byId("look").addEventListener("click", () => alone(ask));
byId("begin").addEventListener("click", () => (asked ? view("voting", "question") : alone(ask)));
open();
