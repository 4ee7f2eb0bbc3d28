// From clicks to a policy: start the run, follow it, and show what it learnt beside where it cheats.
import { api, byId, complain, fill, h, query, role, table, told } from "./dom.js";
import { ranged, ratings } from "./standings.js";

const SHOWN = { reward_mean: "proxy: score of the reward model", gold_mean: "gold: true quality", length_mean: "length, tokens", repetition: "repetition", kl: "KL from the start, nats" };

const change = (gain) => `${gain.mean < 0 ? "fell" : "rose"} by ${told(Math.abs(gain.mean))} (95 % interval of the change: ${told(gain.low)} to ${told(gain.high)})`;

/** What became of the proxy and of the true quality, and whether the new policy only pleases its reward model. */
function verdict({ policies, over_optimisation: over }) {
  const length = policies.new.length_mean - policies.start.length_mean;
  const more = ` Answers became ${told(Math.abs(length))} tokens ${length < 0 ? "shorter" : "longer"}.`;
  const found = over?.gold ?? over?.judge;
  if (!found) return `No gold judge knows these answers. Whether they are better is for people to say: vote on the new pairs.${more}`;
  const { proxy_gain: proxy, gain } = found;
  let meaning = "";
  if (gain.low !== null && gain.low > 0) meaning = " So the answers became better.";
  else if (gain.high !== null && gain.high < 0) meaning = " So the answers became worse: the new policy only pleases its reward model.";
  else meaning = " Whether the answers became better cannot be said from these prompts.";
  return `The proxy ${change(proxy)}. The true quality ${change(gain)}.${meaning}${more}`;
}

function cheats(outcome) {
  if (!outcome) return null;
  const { start, new: now } = outcome.policies;
  const cell = (scores, key) => ranged(scores?.[key], scores?.[`${key}_low`], scores?.[`${key}_high`]);
  const keys = Object.keys(SHOWN).filter((key) => now?.[key] !== null && now?.[key] !== undefined);
  const rows = keys.map((key) => [SHOWN[key], cell(start, key), cell(now, key)]);
  return [h("h2", {}, "Where it cheats"), h("p", {}, verdict(outcome)), table(`Both policies on ${told(outcome.prompts)} held-out prompts, with 95 % intervals`, ["", "before", "after"], rows)];
}

async function follow(run, arena) {
  for (;;) {
    const found = await api(query("/api/votes/outcome", { run }));
    const printed = role === "owner" ? await api(query("/api/printed", { run })) : { text: "", exit_code: null };
    const stage = found.stage ? ` · ${found.stage}` : "";
    const bar = found.total ? h("progress", { max: found.total, value: found.step, "aria-label": "Stages that are done" }) : null;
    const isOver = ["finished", "stopped", "died", "failed"].includes(found.life) || printed.exit_code !== null;
    const state = isOver && found.life === "running" ? "finished" : found.life;
    fill(byId("state"), h("p", {}, h("a", { href: query("/run", { run }) }, run), ` · ${state}${stage} `, bar), found.message ? h("p", { class: "note text" }, found.message) : null);
    fill(byId("cheats"), cheats(found.outcome));
    if (isOver) {
      if (printed.exit_code) fill(byId("cheats"), h("pre", {}, printed.text));
      const { standings } = await api(query("/api/votes/summary", { arena }));
      const vote = h("p", {}, "The new policy is in the arena: ", h("a", { href: query("/ask", { arena }) }, "vote on its answers"), ", or see all ", h("a", { href: query("/votes", { arena }) }, "votes"), ".");
      fill(byId("ratings"), printed.exit_code ? null : [h("h2", {}, "The arena"), vote, ...ratings(standings)]);
      return;
    }
    await new Promise((done) => setTimeout(done, 1000));
  }
}

async function begin(event) {
  event.preventDefault();
  const button = event.submitter ?? event.target.querySelector("[type=submit]");
  button.disabled = true; // a double click starts one run
  try {
    const texts = Object.fromEntries(["arena", "start", "method", "run", "data"].map((id) => [id, byId(id).value]));
    const numbers = Object.fromEntries(["reward_steps", "policy_steps", "prompts"].map((id) => [id, Number(byId(id).value)]));
    const started = await api("/api/votes/policy", { method: "POST", body: { ...texts, ...numbers } });
    history.replaceState(null, "", query("/votes/policy", { run: started.run, arena: texts.arena })); // the page may be opened again
    await follow(started.run, texts.arena);
  } catch (problem) {
    complain(byId("state"), problem);
  }
  button.disabled = false;
}

async function open() {
  try {
    const [arenas, models] = await Promise.all([api("/api/votes/arenas"), api("/api/chat/models")]);
    fill(byId("arena"), arenas.map((one) => h("option", { value: one.arena }, `${one.arena} (${told(one.votes)} votes)`)));
    fill(byId("start"), models.policies.map((name) => h("option", { value: name }, name)));
    const said = new URLSearchParams(location.search);
    for (const id of ["arena", "start"]) if (said.get(id)) byId(id).value = said.get(id);
    if (said.get("run") && said.get("arena")) await follow(said.get("run"), said.get("arena"));
    if (!arenas.length) fill(byId("state"), h("p", {}, "There is no arena yet: bring pairs in on the page ", h("a", { href: "/votes" }, "Votes"), " and vote on them."));
  } catch (problem) {
    complain(byId("state"), problem);
  }
}
byId("form").addEventListener("submit", begin);
open();
