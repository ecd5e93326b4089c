/** The flood gate: sends too fast on purpose, and shows what the server makes of it. */

import { LiveSocket } from "./socket.js";
import { counted, secondsUntil } from "./words.js";

/** Milliseconds between two waves of messages. */
const WAVE = 25;
/** Messages a second at least, and how many times the limit, whichever is more. */
const RATE = 40;
const TIMES = 4;
/** Messages a second where there is no limit. */
const UNLIMITED = 400;
/** Once the server has refused something the pace drops, so that each warning can be seen. Milliseconds. */
const SLOW = 300;
/** A server without a limit would be flooded for ever. */
const ENOUGH = 1500;
const PROBE = "are you there?";

export class Flood {
  #socket = null;
  #element;
  #burst;
  #wave;
  #phase = "idle";
  #sent = 0;
  #accepted = 0;
  #refused = 0;
  #left = null;
  #waitUntil = 0;
  #pause = WAVE;
  #timer = 0;
  #frame = 0;
  #closedAt = 0;
  #closedBy = null;

  /** `burst` is how many messages the server takes at once, `rate` how many a second; 0 where it sets no limit. */
  constructor(burst, rate, element) {
    this.#burst = burst;
    this.#wave = Math.ceil(((rate ? Math.max(RATE, TIMES * rate) : UNLIMITED) * WAVE) / 1000);
    this.#element = element;
    element.toggle.addEventListener("click", () => (this.#phase === "idle" ? this.#start() : this.#stop()));
  }

  #start() {
    this.#sent = this.#accepted = this.#refused = 0;
    this.#left = null;
    this.#waitUntil = 0;
    this.#pause = WAVE;
    this.#closedBy = null;
    this.#closedAt = 0;
    this.#phase = "opening";
    this.#say("Opening a connection.", "calm");
    this.#socket = new LiveSocket("/ws/echo/");
    this.#socket.addEventListener("state", () => this.#stateChanged());
    this.#socket.addEventListener("text", (event) => this.#echoed(event.detail));
    this.#socket.addEventListener("system", (event) => this.#system(event.detail));
    this.#socket.start();
    this.#element.toggle.textContent = "Stop";
    this.#draw();
  }

  #stop(words = "Stopped. The gate is shut.", tone = "calm") {
    clearTimeout(this.#timer);
    this.#phase = "idle";
    this.#waitUntil = 0;
    this.#socket.stop();
    this.#element.toggle.textContent = "Start flooding";
    this.#say(words, tone);
  }

  #stateChanged() {
    const { name, code, words, until } = this.#socket.state;
    if (this.#phase === "opening" && name === "live") {
      this.#phase = "flooding";
      this.#say("Flooding.", "calm");
      this.#pour();
    } else if (this.#phase === "closed" && name === "live") {
      this.#phase = "returning";
      this.#waitUntil = 0;
      this.#socket.send(PROBE);
    } else if (name === "stopped") {
      this.#stop(`Closed with ${code}. ${words}`, "alarm");
    } else if (name === "waiting" && this.#phase !== "idle") {
      this.#closed(code, words, until);
    }
  }

  #closed(code, words, until) {
    clearTimeout(this.#timer);
    if (this.#phase === "opening") {
      this.#stop(`Cannot connect. ${words}`, "alarm");
      return;
    }
    this.#phase = "closed";
    this.#closedAt ||= performance.now();
    this.#closedBy ??= code;
    this.#waitUntil = until;
    this.#say(`Closed with ${code}. ${words} Coming back when the server allows it.`, "alarm");
  }

  #pour() {
    if (this.#phase !== "flooding") return;
    if (this.#sent >= ENOUGH) {
      this.#stop(`${ENOUGH} messages and no objection: this server sets no such limit.`, "calm");
      return;
    }
    for (let drops = this.#refused ? 1 : this.#wave; drops > 0; drops -= 1) this.#socket.send(`flood ${++this.#sent}`);
    this.#timer = setTimeout(() => this.#pour(), this.#pause);
  }

  #echoed(text) {
    if (text === PROBE) {
      const away = ((performance.now() - this.#closedAt) / 1000).toFixed(1);
      this.#stop(`Closed with ${this.#closedBy}, and back after ${away} s: the server answers again.`, "good");
    } else {
      this.#accepted += 1;
    }
  }

  #system({ type, data = {} }) {
    if (type !== "system.rate_limited") return;
    this.#refused += 1;
    this.#left = data.violations_left;
    this.#waitUntil = performance.now() + data.retry_after * 1000;
    // Quick enough that the next few come before the server would take one again.
    this.#pause = Math.min(SLOW, (data.retry_after * 1000) / TIMES);
    const next = this.#left > 0 ? `${counted(this.#left, "warning")} left.` : "The next refusal closes.";
    this.#say(`Soft warning: ${data.limit} messages in ${data.window} s is the limit. ${next}`, "warn");
  }

  #say(words, tone) {
    const { state } = this.#element;
    state.textContent = words;
    state.dataset.tone = tone;
  }

  /** Numbers change forty times a second, the screen once a frame. */
  #draw() {
    cancelAnimationFrame(this.#frame);
    const { sent, accepted, refused, wait, left, tide } = this.#element;
    sent.textContent = this.#sent;
    accepted.textContent = this.#accepted;
    refused.textContent = this.#refused;
    left.textContent = this.#left ?? "–";
    wait.textContent = this.#waitUntil ? `${secondsUntil(this.#waitUntil).toFixed(1)} s` : "–";
    const level = this.#phase === "idle" || !this.#burst ? 0 : Math.min(1, this.#sent / this.#burst);
    tide.style.setProperty("--level", level.toFixed(3));
    tide.dataset.over = String(this.#refused > 0 && this.#phase !== "idle");
    if (this.#phase !== "idle") this.#frame = requestAnimationFrame(() => this.#draw());
    else this.#frame = 0;
  }
}
