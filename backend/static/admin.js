"use strict";
// What is live is fetched again with its page and exchanged; who is in the middle of it is not disturbed.
const EVERY_MS = 3000;

function drawCharts(root) {
  for (const place of root.querySelectorAll("[data-chart]:not([data-drawn])")) {
    place.dataset.drawn = "";
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", place.dataset.label);
    const style = getComputedStyle(document.documentElement);
    Chart.defaults.color = style.getPropertyValue("--soft");
    Chart.defaults.borderColor = style.getPropertyValue("--line");
    const options = { colors: [style.getPropertyValue("--mark").trim()], points: true, empty: "Nothing to show yet" };
    if (place.dataset.refresh) options.refresh = Number(place.dataset.refresh);
    new Chartkick[place.dataset.chart](place, place.dataset.source, options);
  }
}

async function refresh() {
  if (document.hidden) return;
  const places = [...document.querySelectorAll("[data-live]")];
  if (!places.length || places.some((place) => place.contains(document.activeElement) && document.activeElement.matches("button, input, a, pre"))) return;
  try {
    const response = await fetch(location.href, { headers: { "X-Live": "1" } });
    if (!response.ok) return;
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    for (const place of places) {
      const other = fresh.getElementById(place.id);
      if (!other) { location.reload(); return; }
      if (other.innerHTML === place.dataset.before) continue;
      place.dataset.before = other.innerHTML;
      keepCharts(place, other);
      place.replaceChildren(...other.childNodes);
      drawCharts(place);
    }
  } catch { /* the next time may do */ }
}

// A chart that is drawn already loads its own news.
function keepCharts(before, after) {
  for (const place of before.querySelectorAll("[data-drawn]")) {
    const same = after.querySelector(`[data-source="${CSS.escape(place.dataset.source)}"]`);
    if (same) same.replaceWith(place);
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
setInterval(refresh, EVERY_MS);
