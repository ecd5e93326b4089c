/** The chat room: its messages, who is in it, what waits to be delivered, and how the connection is. */

import { LiveSocket } from "./socket.js";
import { counted, duration, inSeconds, secondsUntil } from "./words.js";

const MAX_LINES = 300;
const MAX_WAITING = 50;
const NEAR_BOTTOM = 60;
/** Lines of one person within this time stand under one name. Seconds. */
const SAME_BREATH = 180;

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

export class Chat {
  #socket;
  #element;
  #people = new Map();
  #me = null;
  #waiting = [];
  #nextId = 1;
  #heldUntil = 0;
  #holdTimer = 0;
  #wasLive = false;
  #wasLost = false;
  #lastLine = null;
  #said = "";

  constructor(room, element) {
    this.#element = element;
    this.#socket = new LiveSocket(`/ws/chat/${encodeURIComponent(room)}/`, { measures: true });
    this.#socket.addEventListener("state", () => this.#stateChanged());
    this.#socket.addEventListener("system", (event) => this.#system(event.detail));
    this.#socket.addEventListener("message", (event) => this.#message(event.detail));
    element.drop.addEventListener("click", () => {
      element.message.focus();
      this.#socket.drop();
    });
    element.reconnect.addEventListener("click", () => {
      element.message.focus();
      this.#socket.start();
    });
    element.composer.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    element.message.addEventListener("keydown", (event) => {
      // While an input method composes, Enter belongs to it.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#submit();
    });
    element.log.addEventListener("scroll", () => {
      if (this.#atBottom()) element.toNewest.hidden = true;
    });
    element.toNewest.addEventListener("click", () => this.#scrollDown());
    setInterval(() => this.#showConnection(), 250);
  }

  start() {
    this.#socket.start();
  }

  // What the server says.

  #system({ type, data = {} }) {
    if (type === "system.welcome") this.#welcome(data);
    else if (type === "system.joined") this.#arrive(data.presence ?? []);
    else if (type === "system.presence") this.#presence(data.joins ?? [], data.leaves ?? []);
    else if (type === "system.ack") this.#settle((waiting) => waiting.id === data.id);
    else if (type === "system.error") this.#refused(data);
    else if (type === "system.rate_limited") this.#hold(data);
    else if (type === "system.recovered") this.#recovered(data);
  }

  #message({ type, data, ts }) {
    if (type === "chat.line") {
      const own = data.user === this.#me;
      if (own) this.#settle((waiting) => waiting.sent && waiting.text === data.text);
      this.#addLine(data.user, data.text, ts, own);
    }
  }

  #welcome({ user, limits }) {
    this.#me = user;
    this.#showRoster();
    const messages = limits?.messages_per_window;
    this.#element.limit.textContent = messages
      ? `The server takes ${messages} messages in ${limits.message_window} s.`
      : "";
  }

  #recovered({ complete, count }) {
    if (!complete) this.#addNote("Some messages came too long ago to be shown here.");
    else if (count > 0) this.#addNote(`${counted(count, "message")} while you were away.`);
  }

  // Who is here.

  #arrive(presence) {
    this.#people = new Map(presence.map((person) => [person.id, person]));
    this.#showRoster();
    this.#flush();
  }

  #presence(joins, leaves) {
    for (const person of joins) {
      if (!this.#people.has(person.id)) this.#addNote(`${person.user} joined`);
      this.#people.set(person.id, person);
    }
    for (const person of leaves) {
      if (this.#people.delete(person.id)) this.#addNote(`${person.user} left`);
    }
    this.#showRoster();
  }

  #showRoster() {
    const { roster, rosterCount } = this.#element;
    roster.replaceChildren(
      ...[...this.#people.values()].map((person) => {
        const own = person.user === this.#me;
        const item = create("li", own ? "person own" : "person", create("span", "name", person.user));
        if (own) item.append(" ", create("span", "you", "you"));
        return item;
      }),
    );
    rosterCount.textContent = this.#people.size || "";
  }

  // What is said.

  #addLine(user, text, ts, own) {
    const at = new Date((ts ?? Date.now() / 1000) * 1000);
    const last = this.#lastLine;
    const same = last !== null && last.user === user && at / 1000 - last.at < SAME_BREATH;
    this.#lastLine = { user, at: at / 1000 };
    const who = create("span", "who", create("span", "name", user));
    if (own) who.append(" ", create("span", "you", "you"));
    const time = create("time", "", clock.format(at));
    time.dateTime = at.toISOString();
    const head = create("p", "line-head", who, " ", time);
    const item = create("li", `line${own ? " own" : ""}${same ? " same" : ""}`, head, create("p", "text", text));
    this.#append(item, own);
  }

  #addNote(text) {
    this.#lastLine = null;
    this.#append(create("li", "note", text), false);
  }

  #append(item, follow) {
    const { empty, lines, toNewest } = this.#element;
    const stay = !follow && !this.#atBottom();
    empty.hidden = true;
    lines.append(item);
    while (lines.childElementCount > MAX_LINES) lines.firstElementChild.remove();
    if (stay) toNewest.hidden = false;
    else this.#scrollDown();
  }

  #atBottom() {
    const { log } = this.#element;
    return log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_BOTTOM;
  }

  #scrollDown() {
    const { log, toNewest } = this.#element;
    log.scrollTop = log.scrollHeight;
    toNewest.hidden = true;
  }

  // What you say: every message waits in the outbox until the server has it.

  #submit() {
    const { message } = this.#element;
    const text = message.value.trim();
    if (!text) return;
    if (this.#waiting.length >= MAX_WAITING) {
      this.#announce(`${counted(MAX_WAITING, "message")} are waiting already. Send this one later.`);
      return;
    }
    message.value = "";
    this.#waiting.push({ id: `c${this.#nextId++}`, text, sent: false, problem: "" });
    this.#flush();
  }

  #flush() {
    const open = this.#socket.state.name === "live" && performance.now() >= this.#heldUntil;
    for (const waiting of this.#waiting) {
      if (!open || waiting.sent || waiting.problem) continue;
      waiting.sent = this.#socket.send(
        JSON.stringify({ type: "chat.send", data: { text: waiting.text }, id: waiting.id }),
      );
    }
    this.#showOutbox();
  }

  #settle(matches) {
    const index = this.#waiting.findIndex(matches);
    if (index < 0) return;
    this.#waiting.splice(index, 1);
    this.#showOutbox();
  }

  #refused({ id, message }) {
    const waiting = this.#waiting.find((candidate) => candidate.id === id);
    if (waiting) waiting.problem = message;
    else this.#addNote(message);
    this.#showOutbox();
  }

  /** The server took none of what is unanswered by the time the pause is over: it is sent again then. */
  #hold({ retry_after: seconds, limit, window, violations_left: left }) {
    this.#heldUntil = performance.now() + seconds * 1000;
    this.#addNote(
      `Too fast: the server takes ${limit} messages in ${window} s and asks for ${seconds.toFixed(1)} s of pause. ` +
        `${counted(left, "warning")} left.`,
    );
    clearTimeout(this.#holdTimer);
    this.#holdTimer = setTimeout(() => {
      this.#unsend();
      this.#flush();
    }, seconds * 1000 + 20);
    this.#showOutbox();
  }

  #unsend() {
    for (const waiting of this.#waiting) waiting.sent = false;
  }

  #showOutbox() {
    const { outbox } = this.#element;
    outbox.replaceChildren(
      ...this.#waiting.map((waiting) => {
        const item = create(
          "li",
          waiting.problem ? "waiting failed" : "waiting",
          create("span", "text", waiting.text),
          " ",
          create("span", "fate", this.#fate(waiting)),
        );
        if (waiting.problem) {
          const dismiss = create("button", "button quiet small", "Dismiss");
          dismiss.type = "button";
          dismiss.addEventListener("click", () => {
            this.#element.message.focus();
            this.#settle((candidate) => candidate === waiting);
          });
          item.append(dismiss);
        }
        return item;
      }),
    );
    outbox.hidden = this.#waiting.length === 0;
  }

  #fate(waiting) {
    if (waiting.problem) return `Not sent: ${waiting.problem}`;
    if (this.#socket.state.name !== "live") return "Goes out when the connection is back";
    if (performance.now() < this.#heldUntil) return "Goes out after the pause";
    return "Sending";
  }

  // How the connection is.

  #stateChanged() {
    const { name, words } = this.#socket.state;
    const live = name === "live";
    if (live !== this.#wasLive) {
      this.#wasLive = live;
      if (live) {
        this.#announce("Connected.");
        if (this.#wasLost) this.#addNote("Connected again.");
      } else {
        this.#wasLost = true;
        this.#addNote(words);
        this.#heldUntil = 0;
        this.#unsend();
      }
      this.#showOutbox();
    }
    this.#showConnection();
  }

  #showConnection() {
    const { drop, pill, pillText, notice, noticeText, reconnect, rosterStale } = this.#element;
    const { name, words, restarting } = this.#socket.state;
    pill.dataset.state = restarting && name !== "live" ? "restarting" : name;
    setText(pillText, this.#pillWords());
    const trouble = name === "waiting" || name === "stopped" || (name === "connecting" && words !== "");
    setText(noticeText, trouble ? this.#noticeWords() : "");
    notice.hidden = !trouble;
    notice.dataset.state = name;
    reconnect.hidden = !trouble || name === "connecting";
    drop.disabled = name !== "live";
    setText(reconnect, name === "stopped" ? "Reconnect" : "Try now");
    rosterStale.hidden = name === "live" || this.#people.size === 0;
    // The countdown is for the eyes: what is announced is each change, once.
    if (trouble) this.#announce(name === "stopped" ? `${words} Stopped.` : `${words} Reconnecting.`);
  }

  #pillWords() {
    const { name, restarting, until } = this.#socket.state;
    const { rtt } = this.#socket;
    if (name === "live") return rtt === null ? "Live" : `Live, ${duration(rtt)}`;
    if (name === "stopped") return "Stopped";
    if (restarting) return "Server restarting";
    if (name === "waiting") return `Reconnecting ${inSeconds(until)}`;
    return "Connecting";
  }

  #noticeWords() {
    const { name, words, until } = this.#socket.state;
    if (name === "stopped") return `${words} This page will not reconnect by itself.`;
    if (name === "connecting" || secondsUntil(until) === 0) return `${words} Trying to reconnect.`;
    return `${words} Reconnecting ${inSeconds(until)}.`;
  }

  #announce(words) {
    if (words === this.#said) return;
    this.#said = words;
    this.#element.announcer.textContent = words;
  }
}

function create(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** Set the text only when it differs: selections and screen readers are left in peace. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
