// Talk with one policy or two. The answers come as lines of JSON while they are sampled.
import { api, byId, complain, fill, h, newKey, say, told } from "./dom.js";

const meta = (name) => document.querySelector(`meta[name=${name}]`)?.content ?? "";
let talks = []; // one for each policy: its name, its messages and its place on the page
let stopper = null;

const shown = (text) => text.replaceAll("\n", "↵\n");
const percent = (logprob) => {
  const p = 100 * Math.exp(logprob);
  return p >= 10 ? `${p.toFixed(0)} %` : p >= 0.1 ? `${p.toFixed(1)} %` : "under 0.1 %";
};

/** The words for a token: its probability and the most probable tokens at its place. */
function words(token) {
  const others = token.top_logprobs.map((t) => `“${t.token}” ${percent(t.logprob)}`).join(", ");
  return `“${token.token}” had the probability ${percent(token.logprob)}. Most probable: ${others}.`;
}

function tokenElement(token, detail) {
  const p = Math.exp(token.logprob);
  const strength = p > 0.5 ? "p0" : p > 0.1 ? "p1" : p > 0.01 ? "p2" : "p3";
  const element = h("span", { class: strength, tabindex: -1, title: words(token) }, shown(token.token));
  element.addEventListener("focus", () => fill(detail, words(token)));
  element.addEventListener("mouseenter", () => fill(detail, words(token)));
  return element;
}

/** One stop of the Tab key for an answer; the arrow keys go on from there. */
function moveByArrows(tokens) {
  tokens.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const all = [...tokens.children];
    const next = all[all.indexOf(document.activeElement) + step];
    if (!next) return;
    event.preventDefault();
    for (const one of all) one.tabIndex = one === next ? 0 : -1;
    next.focus();
  });
}

async function answer(talk, settings, signal) {
  const detail = h("p", { class: "note detail", role: "status" });
  const tokens = h("div", { class: "tokens", role: "group", "aria-label": `Answer of ${talk.policy}, token by token` });
  const score = h("p", { class: "note" });
  const place = h("div", { class: "said answer" }, h("strong", {}, talk.policy), tokens, detail, score);
  moveByArrows(tokens);
  talk.place.append(place);
  const body = JSON.stringify({ policy: talk.policy, messages: talk.messages, ...settings });
  const headers = { "content-type": "application/json", "x-csrf-token": meta("csrf") };
  let text = "";
  let whole = false;
  try {
    const reply = await fetch("/api/chat", { method: "POST", headers, body, signal });
    if (!reply.ok) throw new Error((await reply.json().catch(() => ({}))).detail ?? `The server answered ${reply.status}.`);
    for await (const line of lines(reply.body)) {
      if (line.failure) throw new Error(line.failure);
      text += line.text ?? "";
      for (const token of line.tokens ?? []) tokens.append(tokenElement(token, detail));
      if (tokens.firstChild && ![...tokens.children].some((t) => t.tabIndex === 0)) tokens.firstChild.tabIndex = 0;
    }
    whole = true;
  } catch (problem) {
    if (problem.name !== "AbortError") {
      complain(score, problem);
      return false;
    }
  }
  talk.messages.push({ role: "assistant", content: text });
  say(`${talk.policy} answered: ${text}`);
  await scored(talk, score);
  return whole;
}

const SIDES = { left: "The left answer is better", right: "The right answer is better", tie: "Tie", bad: "Both bad" };

/** The buttons with which the owner votes on the last answers of both talks. */
function voting() {
  const place = byId("vote");
  const [left, right] = talks.map((talk) => ({ policy: talk.policy, answer: talk.messages.at(-1).content }));
  const [prompt, other] = talks.map((talk) => talk.messages.slice(0, -1));
  const note = (text) => fill(place, h("p", { class: "note" }, text));
  if (JSON.stringify(prompt) !== JSON.stringify(other)) return note("The two talks differ before these answers, so the answers are no pair to vote on. A new talk begins with both policies alike.");
  if (left.answer.trim() === right.answer.trim()) return note("Both answers are the same.");
  const key = newKey();
  const said = h("p", { class: "note", role: "status" });
  const send = async (side) => {
    try {
      const stored = await api("/api/chat/vote", { method: "POST", body: { key, messages: prompt, left, right, side } });
      const undo = h("button", { type: "button", class: "quiet", onclick: () => takeBack(stored.counts ? key : stored.other) }, "Undo");
      fill(place, h("p", { class: "row" }, stored.counts ? `Stored in the arena ${stored.arena}: ${SIDES[side]}.` : "You have voted on these two answers before, and that vote stands.", undo));
      undo.focus();
    } catch (problem) {
      complain(said, problem); // the key stays: the same button sends the same vote again
    }
  };
  const takeBack = async (voted) => {
    try {
      await api("/api/ask/undo", { method: "POST", body: { arena: "chat", key: voted } });
      voting();
    } catch (problem) {
      complain(said, problem);
      place.append(said);
    }
  };
  const button = (side) => h("button", { type: "button", class: side in { left: 1, right: 1 } ? "" : "quiet", onclick: () => send(side) }, SIDES[side]);
  fill(place, h("h2", {}, "Which answer is better?"), h("p", { class: "row" }, Object.keys(SIDES).map(button)), said);
}

async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}

async function scored(talk, place) {
  const rewards = [...byId("rewards").querySelectorAll("input:checked")].map((box) => box.value);
  if (!rewards.length) return;
  try {
    const found = await api("/api/chat/score", { method: "POST", body: { rewards, messages: talk.messages } });
    const spread = rewards.length > 1 ? ` ± ${told(found.disagreement)} over ${rewards.length} reward models` : "";
    fill(place, `Score ${told(found.score)}${spread}`);
  } catch (problem) {
    complain(place, problem);
  }
}

function begin() {
  const policies = [byId("left").value, byId("right").value].filter(Boolean);
  if (talks.map((t) => t.policy).join("\n") === policies.join("\n")) return;
  talks = policies.map((policy) => ({ policy, messages: [], place: h("section", { class: "card", "aria-label": policy }, h("h2", {}, policy)) }));
  fill(byId("talks"), talks.map((talk) => talk.place));
}

async function send(event) {
  event.preventDefault();
  const question = byId("question").value.trim();
  if (!question || stopper) return;
  begin();
  fill(byId("problem"));
  fill(byId("vote"));
  const seed = byId("seed").value === "" ? null : Number(byId("seed").value);
  const settings = { temperature: Number(byId("temperature").value), max_tokens: Number(byId("most").value), seed };
  stopper = new AbortController();
  byId("send").disabled = true;
  byId("stop").disabled = false;
  byId("question").value = "";
  for (const talk of talks) {
    talk.messages.push({ role: "user", content: question });
    talk.place.append(h("div", { class: "said" }, h("strong", {}, "You"), h("div", { class: "tokens" }, question)));
  }
  const whole = await Promise.all(talks.map((talk) => answer(talk, settings, stopper.signal)));
  stopper = null;
  byId("send").disabled = false;
  byId("stop").disabled = true;
  byId("question").focus();
  if (talks.length === 2 && whole.every(Boolean)) voting();
}

async function open() {
  try {
    const { policies, rewards } = await api("/api/chat/models");
    const option = (name) => h("option", { value: name }, name);
    fill(byId("left"), policies.map(option));
    fill(byId("right"), h("option", { value: "" }, "none"), policies.map(option));
    const box = (name) => h("label", { class: "row" }, h("input", { type: "checkbox", value: name }), name);
    byId("rewards").append(...(rewards.length ? rewards.map(box) : [h("p", { class: "note" }, "No run has trained a reward model.")]));
    if (!policies.length) fill(byId("problem"), h("p", { class: "note" }, "No run has a policy yet. Train one, such as by `concordant demo`."));
  } catch (problem) {
    complain(byId("problem"), problem);
  }
}

byId("ask").addEventListener("submit", send);
byId("stop").addEventListener("click", () => stopper?.abort());
byId("reset").addEventListener("click", () => {
  talks = [];
  fill(byId("talks"));
  fill(byId("vote"));
});
byId("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.ctrlKey) byId("ask").requestSubmit();
});
open();
