/** The demo page: hands each part its elements and starts it. */

import { Chat } from "./chat.js";
import { Sounder } from "./echo.js";
import { Flood } from "./flood.js";
import { Survey } from "./survey.js";

const element = (id) => document.getElementById(id);
const { room, echoInterval, burst, rate } = document.body.dataset;

const chat = new Chat(room, {
  announcer: element("announcer"),
  composer: element("composer"),
  drop: element("drop"),
  empty: element("empty"),
  limit: element("chat-limit"),
  lines: element("lines"),
  log: element("log"),
  message: element("message"),
  notice: element("notice"),
  noticeText: element("notice-text"),
  outbox: element("outbox"),
  pill: element("pill"),
  pillText: element("pill-text"),
  reconnect: element("reconnect"),
  roster: element("roster"),
  rosterCount: element("roster-count"),
  rosterStale: element("roster-stale"),
  toNewest: element("to-newest"),
});
chat.start();

new Flood(Number(burst), Number(rate), {
  accepted: element("flood-accepted"),
  left: element("flood-left"),
  refused: element("flood-refused"),
  sent: element("flood-sent"),
  state: element("flood-state"),
  tide: element("tide"),
  toggle: element("flood-toggle"),
  wait: element("flood-wait"),
});

new Survey({
  bar: element("survey-bar"),
  done: element("survey-done"),
  lines: element("survey-lines"),
  link: element("survey-link"),
  note: element("survey-note"),
  start: element("survey-start"),
  state: element("survey-state"),
});

// Half of what may come at once is left alone: a page that is stopped and started again stays within the limit.
const sounder = new Sounder(Number(echoInterval), Number(burst) / 2 || Infinity, {
  count: element("echo-count"),
  last: element("echo-last"),
  p50: element("echo-p50"),
  p99: element("echo-p99"),
  plot: element("plot"),
  summary: element("echo-summary"),
  svg: element("plot-svg"),
  toggle: element("echo-toggle"),
});
if (!matchMedia("(prefers-reduced-motion: reduce)").matches) sounder.start();
