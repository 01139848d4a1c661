// One workload: its two charts, kept current, and what an operator says of its incidents.

import { Chart, colour, line, seconds, step } from "./charts.js";
import { judging, offer } from "./feedback.js";
import { follow } from "./live.js";

const charts = new WeakMap(); // host -> Chart

// --- data ---

let answers = new Map(); // address -> what it answers in this round: both charts read the same history

function ask(address) {
  if (!address) return null;
  if (!answers.has(address)) answers.set(address, read(address));
  return answers.get(address);
}

async function read(address) {
  const answer = await fetch(address, { cache: "no-cache" });
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.detail);
  return told;
}

/** Open ones end at the present. */
function incidentSpans(history, now) {
  return history.incidents.map((one) => ({
    from: seconds(one.onset),
    until: one.closedAt ? seconds(one.closedAt) : now,
    paint: "incident",
  }));
}

/** Levels as pairs around the median, outermost first: [[0, 6], [1, 5], …]. */
function pairs(levels) {
  return levels.flatMap((low, i) => {
    const j = low < 0.5 ? levels.findIndex((high) => Math.abs(high - (1 - low)) < 1e-6) : -1;
    return j < 0 ? [] : [[i, j]];
  });
}

// --- load ---

async function drawLoad(host) {
  const [history, forecast] = await Promise.all([ask(host.dataset.history), ask(host.dataset.forecast)]);
  const now = Number(host.dataset.now);
  const { replicas } = history;
  // The capacity stands until the present, no further.
  const capacity = [[...replicas.times.map(seconds), now], [...replicas.readyCapacity, replicas.readyCapacity.at(-1) ?? null]];
  const tables = [[history.times.map(seconds), history.load, history.expectedLow, history.expectedHigh], capacity];
  const levels = forecast?.values.length ? forecast.quantiles : [];
  if (levels.length) {
    tables.push([forecast.times.map(seconds), ...levels.map((_, k) => forecast.values.map((row) => row[k]))]);
  }
  // Both ends of the axis are there even where nothing is known.
  tables.push([[now - host.dataset.hours * 3600, now + Number(host.dataset.ahead)], [null, null]]);
  const data = globalThis.uPlot.join(tables);
  const make = () => {
    const bands = pairs(levels);
    const median = levels.indexOf(0.5);
    const series = [
      line("load", "load"),
      line("expected from", "expected", { width: 0 }),
      line("expected to", "expected", { width: 0 }),
      step("capacity", "capacity", { dash: [6, 4] }),
    ];
    const first = series.length + 1; // of the forecast's levels; 0 is the time
    levels.forEach((level, k) => {
      if (k === median) series.push(line("forecast", "median", { dash: [2, 3] }));
      else series.push(line(`${100 * level} %`, "median", { width: 0 }));
    });
    series.push({ show: false });
    const fans = bands.map(([low, high]) => ({ series: [high + first, low + first], fill: colour("fan") }));
    return { series, bands: [{ series: [3, 2], fill: colour("expected") }, ...fans] };
  };
  const readout = host.closest("figure").querySelector(".readout");
  const chart = charts.get(host) ?? new Chart(host, { make, readout, sync: "workload" });
  charts.set(host, chart);
  chart.make = make;
  chart.set(data, { now, spans: incidentSpans(history, now), shape: levels.join() });
}

// --- replicas ---

async function drawReplicas(host) {
  const history = await ask(host.dataset.history);
  const now = Number(host.dataset.now), { replicas } = history;
  const columns = ["floor", "desiredReplicas", "currentReplicas", "readyReplicas", "minReplicas", "maxReplicas"];
  const x = [...replicas.times.map(seconds), now];
  const data = globalThis.uPlot.join([
    [x, ...columns.map((name) => [...replicas[name], replicas[name].at(-1) ?? null])],
    [[now - host.dataset.hours * 3600, now + Number(host.dataset.ahead)], [null, null]],
  ]);
  const make = () => ({
    series: [
      step("floor", "floor", { width: 2.5 }),
      step("desired", "desired", { dash: [6, 3] }),
      step("current", "current"),
      step("ready", "ready", { width: 1.5 }),
      step("minimum", "bounds", { width: 1, dash: [2, 4] }),
      step("maximum", "bounds", { width: 1, dash: [2, 4] }),
      { show: false },
    ],
    bands: [],
  });
  const readout = host.closest("figure").querySelector(".readout");
  const chart = charts.get(host) ?? new Chart(host, { make, readout, height: 200, sync: "workload" });
  charts.set(host, chart);
  chart.set(data, { now, spans: incidentSpans(history, now) });
}

const DRAW = { load: drawLoad, replicas: drawReplicas };

async function changed(part) {
  offer(part);
  if (!globalThis.uPlot) return;
  answers = new Map();
  for (const host of part.querySelectorAll("[data-chart]")) {
    try {
      await DRAW[host.dataset.chart](host);
      host.dataset.ready = "";
    } catch (error) {
      host.closest("figure").querySelector(".readout").textContent = `The chart could not be drawn: ${error.message}`;
    }
  }
}

judging(follow(changed));
