/** The echo sounder: one message there and back, again and again, drawn as the depth of the sea bed. */

import { LiveSocket } from "./socket.js";
import { duration, inSeconds } from "./words.js";

const KEPT = 60;
const QUICK = 150;
/** The first soundings come quickly, so that there is a picture; the pace after that is what the server allows. */
const QUICK_SOUNDINGS = 24;
/** Fewer say nothing about what is typical. */
const ENOUGH = 5;
const SCALES = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000];
/** Pixels between two depth lines at least. */
const DEPTH_LINES_APART = 24;
const MARGIN = { top: 16, right: 56, bottom: 4, left: 0 };
const SVG = "http://www.w3.org/2000/svg";

export class Sounder {
  #socket = new LiveSocket("/ws/echo/");
  #element;
  #interval;
  #quickLeft = 0;
  #running = false;
  #timer = 0;
  #sequence = 0;
  #departed = null;
  #soundings = [];
  #count = 0;

  /** `interval`: milliseconds between soundings that the server allows for ever. `quick`: how many may come at once. */
  constructor(interval, quick, element) {
    this.#interval = interval;
    this.#quickLeft = Math.min(QUICK_SOUNDINGS, quick);
    this.#element = element;
    this.#socket.addEventListener("state", () => this.#stateChanged());
    this.#socket.addEventListener("text", (event) => this.#returned(event.detail));
    this.#socket.addEventListener("system", (event) => this.#system(event.detail));
    element.toggle.addEventListener("click", () => (this.#running ? this.stop() : this.start()));
    document.addEventListener("visibilitychange", () => this.#schedule());
    new ResizeObserver(() => this.#draw()).observe(element.plot);
    setInterval(() => this.#waitingWords(), 500);
  }

  start() {
    this.#running = true;
    this.#element.toggle.textContent = "Stop";
    this.#socket.start();
  }

  stop() {
    this.#running = false;
    this.#element.toggle.textContent = "Start";
    clearTimeout(this.#timer);
    this.#socket.stop();
    this.#summarise("Stopped. ");
  }

  #stateChanged() {
    const { name, words } = this.#socket.state;
    this.#departed = null;
    if (name === "live") {
      this.#schedule();
    } else if (name === "stopped") {
      this.#running = false;
      this.#element.toggle.textContent = "Start";
      this.#say(words, "alarm");
    }
    this.#waitingWords();
  }

  #waitingWords() {
    const { name, words, until } = this.#socket.state;
    if (name === "waiting") this.#say(`${words} Sounding again ${inSeconds(until)}.`, "warn");
  }

  /** Nobody looks at a hidden page: no soundings are taken for it. */
  #schedule() {
    clearTimeout(this.#timer);
    if (!this.#running || document.hidden) return;
    const quick = this.#quickLeft > 0;
    if (quick) this.#quickLeft -= 1;
    this.#timer = setTimeout(() => this.#sound(), quick ? QUICK : this.#interval);
  }

  #sound() {
    if (this.#departed !== null) return;
    const text = `sounding ${++this.#sequence}`;
    const at = performance.now();
    if (this.#socket.send(text)) this.#departed = { text, at };
  }

  #returned(text) {
    if (this.#departed === null || text !== this.#departed.text) return;
    this.#soundings.push(performance.now() - this.#departed.at);
    if (this.#soundings.length > KEPT) this.#soundings.shift();
    this.#count += 1;
    this.#departed = null;
    this.#show();
    this.#schedule();
  }

  #system({ type, data = {} }) {
    if (type !== "system.rate_limited") return;
    this.#departed = null;
    this.#quickLeft = 0;
    if (data.limit) this.#interval = Math.max(this.#interval, (1100 * data.window) / data.limit);
    this.#say(`The server asks for a pause of ${data.retry_after.toFixed(1)} s. Sounding less often.`, "warn");
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#sound(), data.retry_after * 1000 + 20);
  }

  #show() {
    const { last, p50, p99, count } = this.#element;
    last.textContent = duration(this.#soundings.at(-1));
    p50.textContent = duration(this.#percentile(50));
    p99.textContent = duration(this.#percentile(99));
    count.textContent = this.#count;
    this.#draw();
    if (this.#soundings.length >= ENOUGH) this.#summarise();
  }

  #summarise(prefix = "") {
    const taken = this.#soundings.length;
    const words = taken
      ? `Of the last ${taken}, half came back within ${duration(this.#percentile(50))} ` +
        `and 99 in 100 within ${duration(this.#percentile(99))}.`
      : "No soundings yet.";
    this.#say(prefix + words, "calm");
  }

  #say(words, tone) {
    const { summary } = this.#element;
    if (summary.textContent !== words) summary.textContent = words;
    summary.dataset.tone = tone;
  }

  #percentile(percent) {
    const sorted = [...this.#soundings].sort((one, other) => one - other);
    return sorted[Math.max(0, Math.ceil((percent / 100) * sorted.length) - 1)];
  }

  #draw() {
    const { svg, plot } = this.#element;
    const width = plot.clientWidth;
    const height = plot.clientHeight;
    const deepest = Math.max(1, ...this.#soundings);
    const scale = SCALES.find((candidate) => candidate >= deepest * 1.25) ?? deepest * 1.25;
    const bottom = height - MARGIN.bottom;
    // By the square root: a rare deep sounding leaves the usual shallow ones to be seen.
    const y = (value) => MARGIN.top + Math.sqrt(value / scale) * (bottom - MARGIN.top);
    const right = width - MARGIN.right;
    const x = (index) => right - (this.#soundings.length - 1 - index) * ((right - MARGIN.left) / (KEPT - 1));
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren(
      ...depths(y, bottom).flatMap((depth) => depthLine(depth, y(depth), right)),
      ...this.#bed(x, y, bottom),
      ...this.#percentileLine(y, right),
    );
  }

  #bed(x, y, bottom) {
    const points = this.#soundings.map((value, index) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`);
    if (points.length === 0) return [];
    const first = x(0).toFixed(1);
    const last = x(points.length - 1).toFixed(1);
    const [lastX, lastY] = points.at(-1).split(",");
    return [
      shape("polygon", { class: "bed", points: `${first},${bottom} ${points.join(" ")} ${last},${bottom}` }),
      shape("polyline", { class: "trace", points: points.join(" ") }),
      shape("circle", { class: "newest", cx: lastX, cy: lastY, r: 4 }),
    ];
  }

  #percentileLine(y, right) {
    if (this.#soundings.length < ENOUGH) return [];
    const at = y(this.#percentile(50)).toFixed(1);
    return [
      shape("line", { class: "median", x1: 0, x2: right, y1: at, y2: at }),
      shape("text", { class: "median-label", x: 4, y: Number(at) - 4 }, "p50"),
    ];
  }
}

/** Round depths, as many as there is room for, the surface first. */
function depths(y, bottom) {
  const chosen = [0];
  for (const depth of SCALES) {
    const apart = y(depth) - y(chosen.at(-1));
    if (apart >= DEPTH_LINES_APART && y(depth) < bottom - DEPTH_LINES_APART / 2) chosen.push(depth);
  }
  return chosen;
}

function depthLine(value, y, right) {
  const at = y.toFixed(1);
  return [
    shape("line", { class: value === 0 ? "surface" : "depth", x1: 0, x2: right, y1: at, y2: at }),
    shape("text", { class: "depth-label", x: right + 8, y: y + 4 }, `${value} ms`),
  ];
}

function shape(name, attributes, text = "") {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text) element.textContent = text;
  return element;
}
