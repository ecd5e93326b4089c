/** The harbour survey: a background job on the server, its progress here, whenever one comes to look. */

import { LiveSocket } from "./socket.js";

const KEPT = "survey";
/** Lines of its log that are shown. */
const MAX_LINES = 4;
/** What is read out: every quarter is enough to know that it goes on. */
const PARTS = 4;

export class Survey {
  #socket = new LiveSocket("/ws/survey/");
  #element;
  /** The job that is followed; `null` where there is none. */
  #id = null;
  #wanted = false;
  /** Number of the newest event that is shown: what a state holds already comes again as an event. */
  #seq = 0;
  #total = null;
  #part = 0;

  /** A job in the address, or the last one of this tab, is followed at once. */
  constructor(element) {
    this.#element = element;
    this.#socket.addEventListener("state", () => this.#stateChanged());
    this.#socket.addEventListener("system", (event) => this.#system(event.detail));
    this.#socket.addEventListener("message", (event) => this.#message(event.detail));
    element.start.addEventListener("click", () => this.#start());
    const known = new URLSearchParams(location.search).get("survey") ?? sessionStorage.getItem(KEPT);
    if (known) this.#follow(known);
  }

  #start() {
    this.#id = null;
    this.#wanted = true;
    this.#part = 0;
    this.#element.start.disabled = true;
    this.#element.lines.replaceChildren();
    this.#element.link.hidden = true;
    this.#show(0, null, "");
    this.#say("Sending the boat out.", "calm");
    if (this.#socket.state.name === "live") this.#ask();
    else this.#socket.start();
  }

  #follow(id) {
    this.#id = id;
    this.#seq = 0;
    this.#element.start.disabled = true;
    sessionStorage.setItem(KEPT, id);
    const address = new URL(location.href);
    address.searchParams.set("survey", id);
    this.#element.link.href = address;
    if (this.#socket.state.name === "live") this.#ask();
    else this.#socket.start();
  }

  #ask() {
    if (this.#id !== null) this.#tell("task.follow", { id: this.#id });
    else if (this.#wanted) this.#tell("survey.start");
  }

  #tell(type, data = null) {
    this.#socket.send(JSON.stringify({ type, data }));
  }

  #stateChanged() {
    const { name, words } = this.#socket.state;
    if (name === "live") this.#ask();
    else if (name === "waiting") this.#say(`${words} The survey goes on without this page.`, "warn");
    else if (name === "stopped") this.#over(words, "alarm");
  }

  #system({ type, data = {} }) {
    if (type === "system.error") this.#over(data.message, "warn");
  }

  #message({ type, data }) {
    if (type === "survey.started") {
      this.#wanted = false;
      this.#follow(data.id);
    } else if (type === "task.state" && data.id === this.#id) {
      this.#state(data);
    } else if (type.startsWith("task.") && data.id === this.#id && data.seq > this.#seq) {
      this.#seq = data.seq;
      this.#event(type, data);
    }
  }

  #state({ seq, done, total, note, log, state, result, error }) {
    this.#seq = seq;
    this.#element.link.hidden = false;
    this.#element.lines.replaceChildren();
    this.#log(log);
    this.#show(done, total, note);
    this.#part = total ? Math.floor((done / total) * PARTS) : 0;
    if (state === "succeeded") this.#succeeded(result);
    else if (state === "failed") this.#over(error, "alarm");
    else this.#say(`Under way: ${this.#share()}.`, "calm");
  }

  #event(type, data) {
    if (type === "task.progress") this.#progress(data);
    else if (type === "task.log") this.#log(data.lines);
    else if (type === "task.succeeded") this.#succeeded(data.result);
    else if (type === "task.failed") this.#over(data.error, "alarm");
  }

  #progress({ done, total, note }) {
    this.#show(done, total, note);
    const part = total ? Math.floor((done / total) * PARTS) : 0;
    if (part <= this.#part) return;
    this.#part = part;
    this.#say(`Under way: ${this.#share()}.`, "calm");
  }

  #succeeded(result) {
    this.#over(`Surveyed: ${result.stations} stations, ${result.least.toFixed(1)} m of water at the least.`, "good");
  }

  #over(words, tone) {
    this.#id = null;
    this.#wanted = false;
    sessionStorage.removeItem(KEPT);
    this.#socket.stop();
    this.#element.start.disabled = false;
    this.#say(words, tone);
  }

  #show(done, total, note) {
    const { bar, done: figure, note: text } = this.#element;
    this.#total = total;
    bar.max = total ?? 1;
    if (total === null) bar.removeAttribute("value");
    else bar.value = done;
    figure.textContent = total === null ? "–" : `${done} of ${total}`;
    text.textContent = note || "–";
  }

  #share() {
    const { value } = this.#element.bar;
    return this.#total ? `${Math.floor((100 * value) / this.#total)} %` : "begun";
  }

  #log(lines) {
    const list = this.#element.lines;
    for (const line of lines) {
      const item = document.createElement("li");
      item.textContent = line;
      list.append(item);
    }
    while (list.childElementCount > MAX_LINES) list.firstElementChild.remove();
  }

  #say(words, tone) {
    const { state } = this.#element;
    if (state.textContent !== words) state.textContent = words;
    state.dataset.tone = tone;
  }
}
