"use strict";
// Inside MLflow's artifact view the page lies in a frame that may open nothing: only a click with
// Ctrl, or with the middle button, opens a tab. As a file it can open what it likes.
const isFramed = location.protocol === "blob:";

function addressOf(address) {
  const hash = address.slice(address.indexOf("#"));
  if (isFramed) return `${new URL(location.href.slice("blob:".length)).origin}/${hash}`;
  const url = new URL(address);
  url.port = new URLSearchParams(location.search).get("port") ?? url.port;
  return url.href;
}

function hint() {
  const place = document.getElementById("hint");
  place.hidden = false;
  clearTimeout(hint.timer);
  hint.timer = setTimeout(() => { place.hidden = true; }, 4000);
}

function linkRuns() {
  for (const link of document.querySelectorAll("a.run")) {
    link.setAttribute("href", addressOf(link.getAttribute("href")));
    if (!isFramed) link.setAttribute("target", "_blank");
    link.addEventListener("click", (event) => {
      if (!isFramed || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      hint();
    });
  }
}

function filterRuns() {
  const field = document.getElementById("filter");
  const rows = [...document.querySelectorAll("#runs tbody tr")];
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}

// Numbers by size and words by the alphabet; what is empty comes last, either way.
function compare(one, other, sign) {
  if (!one || !other) return (one ? 0 : 1) - (other ? 0 : 1);
  const [a, b] = [Number(one), Number(other)];
  return sign * (Number.isNaN(a) || Number.isNaN(b) ? one.localeCompare(other) : a - b);
}

function sortRuns() {
  const heads = [...document.querySelectorAll("#runs th")];
  const body = document.querySelector("#runs tbody");
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const text = (row) => row.cells[column].textContent.trim();
    body.append(...[...body.rows].sort((a, b) => compare(text(a), text(b), sign)));
  }));
}

document.getElementById("server").hidden = location.protocol !== "file:";
linkRuns();
filterRuns();
sortRuns();
