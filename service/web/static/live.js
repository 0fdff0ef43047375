// Keeps a page as the server would draw it now: the parts marked `data-live` are fetched again and swapped where they
// differ. There is one template for a part, not a second one here. A run's page hears of events at once, by its event
// stream; without one, and for everything else, it asks every few seconds while it can be seen.
import { tellTimes } from "./times.js";

const WITHOUT_STREAM_S = 4;
const WHOLE_EVERY_S = 30; // what takes reading the run's folder, such as curves
const AT_MOST_EVERY_MS = 1000;

const known = new Map();
let last = 0;
let lastWhole = Date.now();
let waiting = null;

export function keepLive(root) {
  const { refresh, events } = root.body.dataset;
  for (const part of root.querySelectorAll("[data-live]")) known.set(part.dataset.live, part.outerHTML);
  if (!refresh) return;
  let every = Number(refresh);
  if (events && !ended()) {
    every = Math.max(every, WITHOUT_STREAM_S);
    const hearing = hear(events, () => (every = WITHOUT_STREAM_S));
    const attend = () => (document.hidden || ended() ? hearing.end() : hearing.begin());
    attend();
    root.addEventListener("visibilitychange", attend);
    root.addEventListener("reco:swapped", attend);
    addEventListener("pagehide", hearing.end);
    addEventListener("pageshow", attend); // it may come back as it was left
  }
  const tick = () => {
    if (!document.hidden && (!events || !ended())) fetchNow();
    setTimeout(tick, 1000 * every);
  };
  setTimeout(tick, 1000 * every);
  root.addEventListener("visibilitychange", () => document.hidden || soon());
}

// The event stream of a run, while somebody looks: browsers open six connections to a service at most, over all pages,
// and some pages that nobody sees would leave none for the one that somebody does.
function hear(events, refused) {
  const address = new URL(events, location.href);
  let stream = null;
  const end = () => {
    stream?.close();
    stream = null;
  };
  const begin = () => {
    if (stream !== null) return;
    const opened = (stream = new EventSource(address));
    for (const kind of ["event", "run", "end"]) {
      opened.addEventListener(kind, ({ lastEventId }) => {
        if (lastEventId) address.searchParams.set("after", lastEventId); // goes on there when it is begun again
        ended() ? end() : soon();
      });
    }
    opened.addEventListener("error", () => {
      if (opened.readyState === EventSource.CLOSED) refused();
      else soon(); // it ends with the run, too
    });
  };
  return { begin, end };
}

const ended = () => document.querySelector("[data-ended]") !== null;

function soon() {
  if (waiting !== null) return;
  waiting = setTimeout(() => {
    waiting = null;
    fetchNow();
  }, Math.max(0, last + AT_MOST_EVERY_MS - Date.now()));
}

async function fetchNow() {
  last = Date.now();
  const address = new URL(location.href);
  address.searchParams.delete("done");
  const whole = !document.body.dataset.events || last - lastWhole > 1000 * WHOLE_EVERY_S;
  if (!whole) address.searchParams.set("brief", "true");
  let text;
  try {
    const answer = await fetch(address);
    if (new URL(answer.url).pathname === "/login") return location.reload();
    if (!answer.ok) return document.body.classList.add("stale");
    text = await answer.text();
  } catch {
    return document.body.classList.add("stale"); // shown as it was, and said so; the next tick tries again
  }
  document.body.classList.remove("stale");
  if (whole) lastWhole = last;
  const wasEnded = ended();
  swap(new DOMParser().parseFromString(text, "text/html"));
  // The last checkpoint and the encoder come with the end.
  if (ended() && !wasEnded) {
    lastWhole = 0;
    soon();
  }
}

function swap(fresh) {
  let changed = false;
  for (const part of fresh.querySelectorAll("[data-live]")) {
    const key = part.dataset.live;
    const here = document.querySelector(`[data-live="${key}"]`);
    if (!here || known.get(key) === part.outerHTML) continue;
    known.set(key, part.outerHTML);
    const ticked = new Set([...here.querySelectorAll("input:checked")].map((input) => input.value));
    const opened = [...here.querySelectorAll("details")].map((details) => details.open);
    const scrolled = [...here.querySelectorAll(".wide")].map((wide) => wide.scrollLeft);
    const focused = here.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    for (const { name } of [...here.attributes]) if (!part.hasAttribute(name)) here.removeAttribute(name);
    for (const { name, value } of part.attributes) here.setAttribute(name, value);
    here.replaceChildren(...part.childNodes);
    for (const input of here.querySelectorAll("input")) input.checked = ticked.has(input.value);
    here.querySelectorAll("details").forEach((details, index) => (details.open = opened[index] ?? details.open));
    here.querySelectorAll(".wide").forEach((wide, index) => (wide.scrollLeft = scrolled[index] ?? 0));
    if (focused) [...here.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused)?.focus();
    tellTimes(here);
    changed = true;
  }
  if (!changed) return;
  document.title = fresh.title;
  document.dispatchEvent(new Event("reco:swapped"));
}
