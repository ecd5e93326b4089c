/** Numbers and states as people read them. */

/** Seconds left until `until` on the clock of `performance.now()`, never below zero. */
export function secondsUntil(until) {
  return Math.max(0, (until - performance.now()) / 1000);
}

/** A short stretch of time, in the unit that suits it. Takes milliseconds. */
export function duration(milliseconds) {
  if (milliseconds < 1) return `${milliseconds.toFixed(2)} ms`;
  if (milliseconds < 10) return `${milliseconds.toFixed(1)} ms`;
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`;
  return `${(milliseconds / 1000).toFixed(1)} s`;
}

/** "in 4 s", or "now" when the time has come. */
export function inSeconds(until) {
  const left = Math.ceil(secondsUntil(until));
  return left > 0 ? `in ${left} s` : "now";
}

/** "1 warning", "2 warnings". */
export function counted(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
