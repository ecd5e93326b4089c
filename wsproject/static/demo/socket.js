/**
 * A WebSocket that comes back by itself, as the one it was: it knows the close codes, waits as long as the server
 * asks, and says where it was, so that nothing of a room is missed or comes twice.
 */

const LOST = 1006;
const RESTART = new Set([1001, 1012]);

const STOP = new Map([
  [1000, "The connection has ended."],
  [1007, "The server got data it cannot read."],
  [1008, "The server does not allow this page to connect."],
  [1009, "A message was larger than the server accepts."],
  [4400, "Too many messages the server could not understand."],
  [4403, "You are not allowed in here."],
  [4409, "A newer connection took the place of this one."],
  [4410, "An operator disconnected you."],
]);

const RETRY = new Map([
  [1001, "The server is restarting."],
  [1011, "The server failed."],
  [1012, "The server is restarting."],
  [1013, "The server is full."],
  [4401, "You are no longer signed in."],
  [4408, "Nothing was heard for too long."],
  [4413, "This connection read too slowly."],
  [4429, "Too many messages: the server asks for a pause."],
  [4503, "The server made room for others."],
]);

const BACKOFF_BASE = 500;
const BACKOFF_CAP = 8000;
const BACKOFF_FLOOR = 200;
/** A connection that held this long was a good one: the next failure starts the backoff from the beginning. */
const SETTLED = 3000;
/** How long a connection that was dropped on purpose stays away: time to write something elsewhere. */
const AWAY = 5000;
/** Marks the resume among what can be refused. */
const RESUME_ID = "resume";
const PING_EVERY = 10000;
/** The first measurement competes with the page's own loading; a second one soon puts it right. */
const SECOND_PING = 1500;

/** Full jitter: anywhere up to a ceiling that doubles, so that a crowd does not come back in step. Milliseconds. */
export function backoff(attempt, random = Math.random) {
  return Math.max(BACKOFF_FLOOR, random() * Math.min(BACKOFF_CAP, BACKOFF_BASE * 2 ** attempt));
}

/** Whether a close with `code` is final, and what it means in words. */
export function meaning(code) {
  if (STOP.has(code)) return { stop: true, words: STOP.get(code) };
  return { stop: false, words: RETRY.get(code) ?? "The connection was lost." };
}

/** The address of a socket on the host that served this page. */
export function socketUrl(path) {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  return `${scheme}//${location.host}${path}`;
}

/**
 * Events: `state` (read `.state` then), `system` (detail: a `system.*` message), `message` (detail: any other
 * message as an object) and `text` (detail: a frame that is no message).
 *
 * A connection that resumes tells nothing of the stranger that it is at first: its `system.welcome` is the second.
 *
 * `.state` is `{name, code, words, restarting, until}`; `name` is `idle`, `connecting`, `live`, `waiting` or
 * `stopped`, and `until` is when a waiting one tries again, on the clock of `performance.now()`.
 */
export class LiveSocket extends EventTarget {
  #url;
  #measures;
  #socket = null;
  #timer = 0;
  #pinger = 0;
  #attempt = 0;
  #openedAt = 0;
  #retryAfter = null;
  /** When the `system.ping` was sent that has no answer yet; `null` where every one has. */
  #pingedAt = null;
  #cause = { code: null, words: "" };
  /** What the server gave us to come back with; a secret between it and this page. */
  #session = null;
  /** Where we are in each room: `{epoch, offset}` of the last message. */
  #places = new Map();
  /** What this connection is, and where, if it cannot be resumed. */
  #stranger = null;
  #strangerPlaces = new Map();
  #strangerMessages = [];
  /** Rooms of which the server has yet to say what we missed: what comes before that comes again. */
  #behind = new Set();
  #resuming = false;

  state = { name: "idle", code: null, words: "", restarting: false, until: 0 };
  /** Milliseconds of the last `system.ping`; `null` before the first answer. */
  rtt = null;

  constructor(path, { measures = false } = {}) {
    super();
    this.#url = socketUrl(path);
    this.#measures = measures;
    window.addEventListener("online", () => this.#hurry());
  }

  /** Connect, whatever the state; what went wrong before is forgotten. */
  start() {
    this.#forget();
    this.#attempt = 0;
    this.#cause = { code: null, words: "" };
    this.#connect();
  }

  /** Lose the connection on purpose, and come back after a while. */
  drop() {
    if (this.state.name !== "live") return;
    this.#forget();
    this.#cause = { code: LOST, words: "You dropped the connection." };
    this.#comeBackIn(AWAY);
  }

  /** Disconnect and stay so. */
  stop() {
    this.#forget();
    this.#become("idle");
  }

  /** Send a string. Return whether there was a connection to take it. */
  send(text) {
    // A socket that is closing takes nothing more, although its close event has yet to come.
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(text);
    return true;
  }

  #connect() {
    this.#become("connecting");
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    this.#retryAfter = null;
    socket.onopen = () => this.#opened();
    socket.onmessage = (event) => this.#received(event.data);
    socket.onclose = (event) => this.#closed(event.code);
  }

  #opened() {
    this.#openedAt = performance.now();
    this.#cause = { code: null, words: "" };
    this.#become("live");
    this.#resume();
    if (this.#measures) this.#ping(SECOND_PING);
  }

  /** Measure the way, and again after `next` milliseconds. */
  #ping(next = PING_EVERY) {
    this.#pingedAt = performance.now();
    this.#say("system.ping", { ts: this.#pingedAt });
    this.#pinger = setTimeout(() => this.#listen(), next);
  }

  /** Give up a connection on which the last measurement got no answer for long. */
  #listen() {
    const silent = this.#pingedAt === null ? 0 : performance.now() - this.#pingedAt;
    if (silent >= PING_EVERY) this.#closed(LOST);
    else if (silent > 0) this.#pinger = setTimeout(() => this.#listen(), PING_EVERY - silent);
    else this.#ping();
  }

  /** Say, before anything else, who we were and where. */
  #resume() {
    this.#resuming = this.#session !== null;
    this.#stranger = null;
    this.#strangerPlaces.clear();
    this.#strangerMessages = [];
    this.#behind = new Set(this.#resuming ? this.#places.keys() : []);
    if (!this.#resuming) return;
    const rooms = Object.fromEntries(this.#places);
    this.#say("system.resume", { session: this.#session, rooms }, RESUME_ID);
  }

  #say(type, data, id) {
    this.send(JSON.stringify({ type, data, id }));
  }

  #received(data) {
    const message = parsed(data);
    if (message === null) {
      this.#emit("text", data);
    } else if (message.type.startsWith("system.")) {
      if (this.#system(message.type, message.data ?? {})) this.#emit("system", message);
    } else if (this.#isNew(message)) {
      this.#emit("message", message);
    }
  }

  /** Whether a message was not seen before; where it was in its room, we are now. */
  #isNew(message) {
    const { room, offset } = message;
    const place = this.#places.get(room);
    if (offset === undefined || place === undefined) return true;
    if (this.#behind.has(room)) {
      if (this.#resuming) this.#strangerMessages.push(message);
      return false;
    }
    if (offset <= place.offset) return false;
    place.offset = offset;
    return true;
  }

  /** Return whether it is worth telling others. */
  #system(type, data) {
    if (type === "system.ping") {
      this.#say("system.pong", { ts: data.ts });
    } else if (type === "system.pong") {
      this.#pingedAt = null;
      if (typeof data.ts === "number") this.rtt = Math.max(0, performance.now() - data.ts);
      this.#emit("state");
    } else if (type === "system.closing" || type === "system.rate_limited") {
      this.#retryAfter = typeof data.retry_after === "number" ? data.retry_after * 1000 : null;
    } else if (type === "system.welcome") {
      return this.#welcomed(data);
    } else if (type === "system.error" && data.id === RESUME_ID) {
      return this.#begunAfresh();
    } else if (type === "system.ack" && data.id === RESUME_ID) {
      return false;
    } else if (type === "system.joined" && data.epoch !== undefined) {
      const place = { epoch: data.epoch, offset: data.offset };
      if (this.#resuming) this.#strangerPlaces.set(data.room, place);
      // Where a resumed connection enters is not where we were.
      if (!this.#places.has(data.room)) this.#places.set(data.room, place);
    } else if (type === "system.left") {
      this.#places.delete(data.room);
      this.#behind.delete(data.room);
    } else if (type === "system.recovered") {
      // What was missed follows, if it can be had.
      const offset = data.complete && data.count > 0 ? data.from : data.to;
      this.#places.set(data.room, { epoch: data.epoch, offset });
      this.#behind.delete(data.room);
    }
    return true;
  }

  #welcomed(data) {
    if (this.#resuming && this.#stranger === null) {
      this.#stranger = data;
      return false;
    }
    this.#resuming = false;
    this.#session = data.session;
    return true;
  }

  /** The session is no good any more: we are the stranger. */
  #begunAfresh() {
    this.#resuming = false;
    this.#session = this.#stranger.session;
    this.#places = new Map(this.#strangerPlaces);
    this.#behind.clear();
    this.#emit("system", { type: "system.welcome", data: this.#stranger });
    for (const message of this.#strangerMessages) if (this.#isNew(message)) this.#emit("message", message);
    return false;
  }

  #closed(code) {
    const settled = this.#openedAt && performance.now() - this.#openedAt > SETTLED;
    this.#drop();
    if (settled) this.#attempt = 0;
    // A server that is away answers attempts with 1006: the reason it gave when it left still stands.
    if (code !== LOST || this.#cause.code === null) this.#cause = { code, ...meaning(code) };
    if (this.#cause.stop) {
      this.#become("stopped");
      return;
    }
    const asked = this.#retryAfter;
    this.#retryAfter = null;
    this.#comeBackIn(asked ?? backoff(this.#attempt++));
  }

  #comeBackIn(delay) {
    this.#timer = setTimeout(() => this.#connect(), delay);
    this.#become("waiting", performance.now() + delay);
  }

  /** The network is back: there is no use in waiting any longer for a server that was only unreachable. */
  #hurry() {
    if (this.state.name !== "waiting" || this.#cause.code !== LOST) return;
    this.#forget();
    this.#connect();
  }

  #forget() {
    clearTimeout(this.#timer);
    this.#drop();
  }

  #drop() {
    clearTimeout(this.#pinger);
    this.#openedAt = 0;
    this.#pingedAt = null;
    this.rtt = null;
    const socket = this.#socket;
    this.#socket = null;
    if (socket === null) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  #become(name, until = 0) {
    const { code, words } = this.#cause;
    this.state = { name, code, words, restarting: RESTART.has(code), until };
    this.#emit("state");
  }

  #emit(type, detail = null) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** The message in a frame, or `null` where the frame is none (an echo may be any text). */
function parsed(data) {
  if (typeof data !== "string" || !data.startsWith("{")) return null;
  try {
    const message = JSON.parse(data);
    return typeof message.type === "string" ? message : null;
  } catch {
    return null;
  }
}
