// Keeps a page true: takes server-rendered regions from the event stream, replaces the rows that differ, counts seconds.
// Not here: any HTML of its own, any state but the clock's offset. The page is whole without this file.

const body = document.body;
const live = document.getElementById("live");
const log = document.getElementById("log");
const LOG_CHARACTERS_MAX = 2_000_000;
const SILENCE_MS_MAX = 10_000;
let offsetMs = Number(body.dataset.now) - Date.now();
let heardMs = Date.now();

function duration(ms) {
  let seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  let minutes = Math.floor(seconds / 60);
  seconds %= 60;
  if (minutes < 60) return `${minutes} min ${String(seconds).padStart(2, "0")} s`;
  let hours = Math.floor(minutes / 60);
  minutes %= 60;
  if (hours < 24) return `${hours} h ${String(minutes).padStart(2, "0")} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

function count() {
  const now = Date.now() + offsetMs;
  for (const one of document.querySelectorAll("time[data-ms]")) {
    const text = duration(Math.abs(now - Number(one.dataset.ms)));
    if (one.textContent !== text) one.textContent = text;
  }
}

// What an element says apart from the seconds it counts.
function essence(element) {
  const copy = element.cloneNode(true);
  copy.classList.remove("new");
  if (!copy.className) copy.removeAttribute("class");
  for (const one of copy.querySelectorAll("time")) one.textContent = "";
  return copy.outerHTML;
}

function patch(region, html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  const before = new Map([...region.children].map((child) => [child.dataset.key, child]));
  const first = region.childElementCount === 0;
  let place = region.firstElementChild;
  for (const fresh of [...template.content.children]) {
    const key = fresh.dataset.key;
    const old = before.get(key);
    let kept = fresh;
    if (old) {
      before.delete(key);
      if (essence(old) === essence(fresh)) {
        kept = old;
      } else {
        keepState(old, fresh);
        if (place === old) place = old.nextElementSibling;
        old.remove();
      }
    } else if (!first) {
      fresh.classList.add("new");
    }
    if (kept === place) place = place.nextElementSibling;
    else region.insertBefore(kept, place);
  }
  for (const gone of before.values()) gone.remove();
}

// A row that is replaced keeps what a person is doing in it: an opened disclosure, the keyboard's place.
function keepState(old, fresh) {
  const opened = [...old.querySelectorAll("details")].map((one) => one.open);
  fresh.querySelectorAll("details").forEach((one, index) => (one.open = opened[index] ?? false));
  if (!old.contains(document.activeElement)) return;
  const selector = "a, button, summary, input";
  const index = [...old.querySelectorAll(selector)].indexOf(document.activeElement);
  queueMicrotask(() => fresh.querySelectorAll(selector)[index]?.focus({ preventScroll: true }));
}

function tell(state, text) {
  live.className = `live ${state}`;
  if (live.textContent !== text) live.textContent = text;
}

function append(text) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.append(text);
  if (log.textContent.length > LOG_CHARACTERS_MAX) log.textContent = log.textContent.slice(-LOG_CHARACTERS_MAX / 2);
  else if (log.childNodes.length > 500) log.normalize();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function note(text) {
  const place = document.getElementById("log-note");
  place.textContent = text;
  place.hidden = !text;
}

function connect() {
  const words = new URLSearchParams({ page: body.dataset.page, name: body.dataset.name });
  if (log) {
    words.set("attempt", log.dataset.attempt);
    words.set("at", log.dataset.offset);
  }
  const source = new EventSource(`/events?${words}`);
  const on = (name, act) =>
    source.addEventListener(name, (event) => {
      heardMs = Date.now();
      tell("on", "live");
      act(JSON.parse(event.data));
    });
  on("now", ({ ms }) => {
    offsetMs = ms - Date.now();
    count();
  });
  on("region", ({ id, html }) => {
    const region = document.getElementById(id);
    if (region) patch(region, html);
  });
  on("log", ({ text, note: said, offset }) => {
    if (text) append(text);
    if (offset !== undefined) log.dataset.offset = offset;
    note(said);
  });
  on("log-reset", ({ attempt }) => {
    log.textContent = "";
    log.dataset.attempt = attempt;
    log.dataset.offset = 0;
    document.getElementById("log-skipped").hidden = true;
    note("");
  });
  source.addEventListener("bye", (event) => {
    source.close();
    tell("off", JSON.parse(event.data).message);
  });
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) {
      tell("off", "signed out or refused: reload the page");
      return;
    }
    tell("wait", "reconnecting…");
    // The browser would ask again from where this page began; the log has moved on since.
    source.close();
    setTimeout(connect, 2_000);
  };
}

if (log) log.scrollTop = log.scrollHeight;
connect();
setInterval(() => {
  count();
  if (live.classList.contains("on") && Date.now() - heardMs > SILENCE_MS_MAX) tell("wait", "waiting for news…");
}, 1_000);
