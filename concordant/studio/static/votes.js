// The page "Votes": what an arena's votes say, renewed while the page is seen; raters' links and new pairs.
import { api, byId, complain, fill, h, query, role, table, told } from "./dom.js";
import { ranged, ratings, share } from "./standings.js";

let before = "";

const agreed = (name, found) => {
  const why = found.pairs ? "all labels are equal" : "no pair has two votes";
  return [name, found.value === null ? `– (${why})` : ranged(found.value, found.low, found.high), `${told(found.pairs)} of ${told(found.of)} pairs`];
};

function show(found) {
  const counts = found.counts;
  const agreement = [agreed("Fleiss’ κ", found.agreement.fleiss), agreed("Krippendorff’s α", found.agreement.krippendorff)];
  for (const pair of found.agreement.cohen) agreement.push(agreed(`Cohen’s κ, ${pair.raters.join(" and ")}`, pair));
  const raters = found.raters.map((r) => [r.name, told(r.votes), told(r.skipped), told(r.ties), share(r.gold), share(r.left), r.seconds === null ? "–" : `${told(r.seconds)} s`]);
  const bias = found.position_bias;
  fill(
    byId("results"),
    h("p", {}, h("strong", {}, found.question)),
    h("p", {}, `Votes: ${told(counts.votes)}, on ${told(counts.labelled_pairs)} of ${told(counts.pairs)} pairs (${told(counts.gold_pairs)} of them gold); undone: ${told(counts.undone)}; open seats: ${told(counts.open)}.`),
    ratings(found.standings),
    found.needed_sentence ? h("p", {}, found.needed_sentence) : null,
    table("Agreement beyond chance: 1 always, 0 as often as by chance", ["measure", "value", "rests on"], agreement),
    raters.length ? table("Raters; who only reads takes the left answer in 50 % of the cases", ["rater", "votes", "skipped", "ties", "right on gold pairs", "left answer", "time of a vote"], raters) : null,
    bias ? h("p", {}, `Position bias: ${told(Math.round(100 * bias.value))} % of the choices went to the left for being there [${told(Math.round(100 * bias.low))}, ${told(Math.round(100 * bias.high))}].`) : null,
    h("p", { class: "note" }, "For training: ", h("code", {}, `concordant votes export --arena ${found.arena} --output pairs.jsonl`))
  );
}

async function renew() {
  try {
    if (!document.hidden) {
      const arenas = await api("/api/votes/arenas");
      const chosen = byId("arena").value || new URLSearchParams(location.search).get("arena") || arenas[0]?.arena;
      if (byId("arena").options.length !== arenas.length) {
        fill(byId("arena"), arenas.map((one) => h("option", { value: one.arena }, one.arena)));
        if (chosen) byId("arena").value = chosen;
      }
      const now = JSON.stringify([arenas, byId("arena").value]);
      if (!arenas.length) fill(byId("results"), h("p", {}, "There is no arena yet. The owner of the studio brings pairs in below."));
      else if (now !== before) show(await api(query("/api/votes/summary", { arena: byId("arena").value })));
      before = now;
    }
  } catch (problem) {
    complain(byId("results"), problem);
    before = "";
  }
  byId("results").setAttribute("aria-busy", "false");
}

async function every() {
  await renew();
  setTimeout(every, 3000);
}

async function sent(event, place, work) {
  event.preventDefault();
  const button = event.submitter ?? event.target;
  button.disabled = true;
  try {
    fill(byId(place), await work());
  } catch (problem) {
    complain(byId(place), problem);
  }
  button.disabled = false;
}

async function link() {
  const made = await api("/api/votes/raters", { method: "POST", body: { name: byId("name").value } });
  return [h("p", {}, `${made.rater} votes with this link. It is shown once:`), h("pre", {}, made.link)];
}

async function retire() {
  const done = await api("/api/votes/raters/retire", { method: "POST", body: { name: byId("name").value } });
  return h("p", {}, `The link of ${done.rater} is refused from now on. The votes stay.`);
}

async function pairs() {
  const value = (id) => byId(id).value;
  const policies = [...byId("policies").selectedOptions].map((one) => one.value);
  const texts = { arena: value("new-arena"), question: value("asked"), instructions: value("instructions"), collected: value("collected"), data: value("data"), run: value("run") };
  const numbers = { raters_per_pair: Number(value("raters")), prompts: Number(value("prompts")) };
  const done = await api("/api/votes/arenas", { method: "POST", body: { ...texts, ...numbers, policies } });
  if (!done.run) return h("p", {}, `${told(done.added)} pairs were added.`);
  return [h("p", {}, "The policies answer now. The pairs appear here when the run has ended: ", h("a", { href: query("/run", { run: done.run }) }, done.run)), h("pre", {}, done.command)];
}

byId("arena").addEventListener("change", renew);
if (role === "owner") {
  byId("rater").addEventListener("submit", (event) => sent(event, "link", link));
  byId("retire").addEventListener("click", (event) => sent(event, "link", retire));
  byId("pairs").addEventListener("submit", (event) => sent(event, "added", pairs));
  const { policies } = await api("/api/chat/models");
  fill(byId("policies"), policies.map((name) => h("option", { value: name }, name)));
}
every();
