"use strict";
// Figures take the page's colours, and change with them.
const figures = [...document.querySelectorAll("script[data-figure]")].map((source) => ({
  place: document.getElementById(source.dataset.figure),
  ...JSON.parse(source.textContent),
}));

function colours() {
  const style = getComputedStyle(document.documentElement);
  const named = (name) => style.getPropertyValue(name).trim();
  return { ink: named("--ink"), line: named("--line"), soft: named("--soft") };
}

function themed(layout) {
  const { ink, line, soft } = colours();
  const own = structuredClone(layout);
  own.font = { ...own.font, color: ink };
  for (const name of Object.keys(own).filter((key) => /^[xy]axis/.test(key))) {
    own[name] = { ...own[name], gridcolor: line, zerolinecolor: line, linecolor: line };
  }
  own.shapes = (own.shapes || []).map((shape) => ({ ...shape, line: { ...shape.line, color: soft } }));
  return own;
}

async function draw() {
  for (const { place, data, layout } of figures) {
    const { ink } = colours();
    for (const trace of data) {
      if (trace.type === "parcoords") Object.assign(trace, { labelfont: { color: ink }, tickfont: { color: ink } });
    }
    await Plotly.react(place, data, themed(layout), { responsive: true, displayModeBar: false });
  }
}

// Inside MLflow's artifact view the page lies in a frame that may open nothing: only a click with
// Ctrl, or with the middle button, opens a tab. As a file it can open what it likes.
const isFramed = location.protocol === "blob:";

function addressOf(address) {
  const hash = address.slice(address.indexOf("#"));
  const server = isFramed ? new URL(location.href.slice("blob:".length)).origin + "/" : null;
  return server ? server + hash : address;
}

function hint() {
  const place = document.getElementById("hint");
  place.hidden = false;
  clearTimeout(hint.timer);
  hint.timer = setTimeout(() => { place.hidden = true; }, 4000);
}

function linkRuns() {
  for (const link of document.querySelectorAll("a.run")) {
    link.href = addressOf(link.href);
    if (!isFramed) link.target = "_blank";
    link.addEventListener("click", (event) => {
      if (!isFramed || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      hint();
    });
  }
}

function openFromMap() {
  const map = document.getElementById("figure-map");
  if (!map) return;
  map.on("plotly_click", (event) => {
    const run = event.points[0].customdata;
    const address = document.body.dataset.address.replace("%RUN%", run);
    if (run && !isFramed) window.open(address, "_blank", "noopener");
  });
}

function filterRuns() {
  const field = document.getElementById("filter");
  if (!field) return;
  const rows = [...document.querySelectorAll("#runs tbody tr")];
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
linkRuns();
filterRuns();
draw().then(openFromMap);
