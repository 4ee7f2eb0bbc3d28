// Tables of what votes say, for the pages "Votes" and "From clicks to a policy".
import { table, told } from "./dom.js";

const known = (x) => x !== null && x !== undefined;
const whole = (x) => String(Math.round(x)).replace("-", "−");

/** A share in percent with its interval and the number on which it rests. */
export function share(mean) {
  if (!mean) return "–";
  const ends = known(mean.low) ? ` [${whole(100 * mean.low)}, ${whole(100 * mean.high)}]` : "";
  return `${whole(100 * mean.value)} %${ends} of ${told(mean.count)}`;
}

/** A number with its interval. */
export function ranged(value, low, high, digits = told) {
  if (!known(value)) return "–";
  return known(low) && low !== high ? `${digits(value)} [${digits(low)}, ${digits(high)}]` : digits(value);
}

export function ratings(standings) {
  if (!standings) return [];
  const rows = standings.ratings.map((row) => [row.policy, ranged(row.rating, row.low, row.high, whole)]);
  const names = standings.ratings.map((row) => row.policy);
  const cell = (one, two) => (one === two ? "" : share(standings.wins[one]?.[two]));
  return [
    table(`Bradley–Terry ratings in points, with 95 % intervals, number of votes: ${told(standings.labels)}; ${standings.anchor} has 0`, ["policy", "rating"], rows),
    table("How often the policy of the row wins against that of the column; a tie counts half", ["policy", ...names], names.map((one) => [one, ...names.map((two) => cell(one, two))])),
  ];
}
