// The list: filter and sort in place, small lines of the last day drawn when a row comes into view.

import { follow } from "./live.js";

const WIDTH = 96, HEIGHT = 24;
const NS = "http://www.w3.org/2000/svg";
const input = document.getElementById("q");
const shown = document.getElementById("shown");
const lines = new Map(); // workload -> values
let sorted = { by: "name", up: true };
let watcher = null;

const body = () => document.querySelector("tbody[data-rows]");

// --- filter ---

function filter() {
  const rows = body()?.children ?? [];
  const wanted = input.value.trim().toLowerCase();
  let count = 0;
  for (const row of rows) {
    row.hidden = wanted !== "" && !row.textContent.toLowerCase().includes(wanted);
    if (!row.hidden) count += 1;
  }
  shown.textContent = wanted === "" ? "" : `${count} of ${rows.length} shown`;
}

// --- sort ---

const ORDER = ["no forecast", "degraded", "forecasting"];
const KEYS = {
  name: (row) => row.cells[0].textContent,
  state: (row) => ORDER.indexOf(row.querySelector(".pill").textContent),
  load: (row) => Number(row.cells[3].dataset.v ?? NaN),
  floor: (row) => count(row.cells[4]),
  desired: (row) => count(row.cells[5]),
  actual: (row) => count(row.cells[6]),
};

function count(cell) {
  const text = cell.textContent.split("/").pop().replaceAll(",", "");
  return text === "–" ? NaN : Number(text);
}

function sort() {
  const tbody = body();
  if (!tbody) return;
  for (const head of document.querySelectorAll("th[data-sort]")) {
    if (head.dataset.sort === sorted.by) head.setAttribute("aria-sort", sorted.up ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  }
  const key = KEYS[sorted.by], sign = sorted.up ? 1 : -1;
  const pairs = [...tbody.children].map((row) => [key(row), row]);
  pairs.sort(([a], [b]) => {
    if (typeof a === "string") return sign * (a < b ? -1 : a > b ? 1 : 0);
    if (Number.isNaN(a) || Number.isNaN(b)) return Number(Number.isNaN(a)) - Number(Number.isNaN(b)); // unknown last
    return sign * (a - b);
  });
  if (pairs.some(([, row], i) => tbody.children[i] !== row)) tbody.append(...pairs.map(([, row]) => row));
}

function heads() {
  for (const head of document.querySelectorAll("th[data-sort]:not([data-ready])")) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: head.textContent });
    button.addEventListener("click", () => {
      const by = head.dataset.sort;
      sorted = { by, up: sorted.by === by ? !sorted.up : by === "name" || by === "state" };
      sort();
    });
    head.replaceChildren(button);
    head.dataset.ready = "";
    head.dataset.keep = "";
  }
}

// --- small lines ---

async function fetchLines() {
  const found = new Map();
  let next = "";
  for (let page = 0; page < 2; page += 1) {
    const more = next ? `&next=${encodeURIComponent(next)}` : ""; // the page has asked for the first one already
    const answer = await fetch(`/api/v1/sparklines?limit=1000${more}`);
    if (!answer.ok) return;
    const told = await answer.json();
    for (const { name, values } of told.items) found.set(name, values);
    next = told.next;
    if (!next) break;
  }
  for (const [name, values] of found) lines.set(name, values);
}

function draw(cell, values) {
  const low = Math.min(0, ...values.filter((v) => v !== null));
  let path = "", open = false;
  values.forEach((value, i) => {
    if (value === null) {
      open = false;
      return;
    }
    const x = ((i * WIDTH) / (values.length - 1)).toFixed(1);
    const y = (HEIGHT - 2 - ((value - low) / (100 - low)) * (HEIGHT - 4)).toFixed(1);
    path += `${open ? "L" : "M"}${x} ${y}`;
    open = true;
  });
  const svg = document.createElementNS(NS, "svg");
  for (const [name, value] of Object.entries({ viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT })) {
    svg.setAttribute(name, value);
  }
  svg.setAttribute("aria-hidden", "true"); // the load stands beside it as a number
  const line = document.createElementNS(NS, "path");
  line.setAttribute("d", path);
  svg.append(line);
  cell.replaceChildren(svg);
  cell.dataset.drawn = values.join();
}

function watch() {
  watcher?.disconnect();
  watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      const cell = target.querySelector(".spark"), values = lines.get(target.dataset.key);
      if (cell && values?.some((v) => v !== null) && cell.dataset.drawn !== values.join()) draw(cell, values);
    }
  }, { rootMargin: "200px" });
  for (const row of body()?.children ?? []) watcher.observe(row);
}

let through = 0;
async function changed() {
  heads();
  sort();
  filter();
  if (!body()) return;
  const mine = ++through;
  try {
    if (lines.size === 0 || mine % 6 === 0) await fetchLines(); // they move once in half an hour
  } catch {
    return; // the part's own status line says that the service does not answer
  }
  watch();
}

input.addEventListener("input", filter);
follow(changed);
