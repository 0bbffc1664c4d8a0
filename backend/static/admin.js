"use strict";
// Reloads the live parts of a page every few seconds, except while somebody uses a control in them.
const EVERY_MS = 3000;
const TIMEOUT_MS = 15000;
const charts = new WeakMap();
let isLoading = false;
let upToDateAt = new Date();

function drawCharts(root) {
  for (const place of root.querySelectorAll("[data-chart]:not([data-drawn])")) {
    place.dataset.drawn = "";
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", place.dataset.label);
    const style = getComputedStyle(document.documentElement);
    Chart.defaults.color = style.getPropertyValue("--soft");
    Chart.defaults.borderColor = style.getPropertyValue("--line");
    const options = { colors: ["--mark", "--busy"].map((name) => style.getPropertyValue(name).trim()), points: true, empty: "Nothing to show yet" };
    options.library = { scales: { x: { ticks: { precision: 0 } } } };
    if (place.dataset.refresh) options.refresh = Number(place.dataset.refresh);
    charts.set(place, new Chartkick[place.dataset.chart](place, place.dataset.source, options));
  }
}

// The server writes times in UTC. The reader's time zone is known here only.
function showLocalTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime);
    time.title = time.textContent;
    time.textContent = moment.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
  }
}

async function refresh() {
  if (isLoading || document.hidden) return;
  const places = [...document.querySelectorAll("[data-live]")];
  if (!places.length || places.some((place) => place.contains(document.activeElement) && document.activeElement.matches("button, input, a, pre"))) return;
  isLoading = true;
  try {
    const headers = { "X-Live": "1", Accept: "text/html" };
    const response = await fetch(location.href, { headers, signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (!response.ok) throw new Error(response.statusText);
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    for (const place of places) {
      const other = fresh.getElementById(place.id);
      if (!other) { location.reload(); return; }
      if (other.innerHTML === place.dataset.before) continue;
      place.dataset.before = other.innerHTML;
      keepCharts(place, other);
      place.replaceChildren(...other.childNodes);
      drawCharts(place);
      showLocalTimes(place);
    }
    upToDateAt = new Date();
    showStaleNotice(false);
  } catch {
    showStaleNotice(true); // the next try may succeed
  } finally {
    isLoading = false;
  }
}

// The notice is written once and not at each failure: a screen reader reads every change aloud.
function showStaleNotice(isStale) {
  const notice = document.getElementById("stale");
  if (notice.hidden !== isStale) return;
  notice.hidden = !isStale;
  const since = upToDateAt.toLocaleTimeString("en-GB");
  notice.textContent = isStale ? `Not up to date since ${since}. The backend does not answer, or it reports an error.` : "";
}

// Keep charts that still update themselves; destroy those that are no longer on the page.
function keepCharts(before, after) {
  for (const place of before.querySelectorAll("[data-drawn]")) {
    const same = after.querySelector(`[data-source="${CSS.escape(place.dataset.source)}"]`);
    if (same && same.dataset.refresh === place.dataset.refresh) same.replaceWith(place);
    else charts.get(place).destroy();
  }
}

function showAttention(word) {
  const card = word.closest(".sample");
  const canvas = card.querySelector("canvas");
  const isOn = word.getAttribute("aria-pressed") === "true";
  for (const other of card.querySelectorAll(".word")) other.setAttribute("aria-pressed", "false");
  canvas.hidden = isOn;
  if (isOn) return;
  word.setAttribute("aria-pressed", "true");
  const columns = Number(word.closest(".words").dataset.columns);
  const weights = word.dataset.attention.match(/../g).map((pair) => parseInt(pair, 16));
  const rows = Math.ceil(weights.length / columns);
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(columns, rows);
  weights.forEach((weight, at) => pixels.data.set([0, 0, 0, 200 * (1 - weight / 255)], 4 * at));
  context.putImageData(pixels, 0, 0);
}

document.addEventListener("click", (event) => {
  const word = event.target.closest("button.word");
  if (word) showAttention(word);
});
document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});
drawCharts(document);
showLocalTimes(document);
setInterval(refresh, EVERY_MS);
