// The demo: per service load against capacity and replicas in both futures. All times are the simulated cluster's.

import { Chart, line, seconds, step } from "./charts.js";
import { follow } from "./live.js";

const charts = new WeakMap();
const NAMES = { hpa: ["capacityHpa", "replicasHpa"], forecaster: ["capacityForecaster", "replicasForecaster"] };

/** Both futures of a service share their scales, or they could not be compared by eye. */
const highest = (...columns) => columns.flat().reduce((most, v) => (v > most ? v : most), 0) * 1.08 || 1;

/** Spans in which the load is above the capacity: from the first point that is to the first that is not. */
function above(times, load, capacity) {
  const spans = [];
  let from = null;
  times.forEach((at, i) => {
    const is = load[i] != null && capacity[i] != null && load[i] > capacity[i];
    if (is && from === null) from = at;
    if (!is && from !== null) {
      spans.push({ from, until: at, paint: "above" });
      from = null;
    }
  });
  if (from !== null) spans.push({ from, until: times.at(-1), paint: "above" });
  return spans;
}

function drawLoad(host, service, times, now) {
  const capacity = service[NAMES[host.dataset.policy][0]];
  const make = () => ({
    series: [line("load", "load"), step("capacity", "capacity", { dash: [6, 4] })],
    bands: [],
  });
  const top = highest(service.load, service.capacityHpa, service.capacityForecaster);
  put(host, make, 190, [times, service.load, capacity], now, above(times, service.load, capacity), top);
}

function drawReplicas(host, service, times, now) {
  const replicas = service[NAMES[host.dataset.policy][1]], ours = host.dataset.policy === "forecaster";
  const make = () => ({
    series: [step("replicas", "current"), ...(ours ? [step("floor", "floor", { width: 1.5 })] : [])],
    bands: [],
  });
  const top = highest(service.replicasHpa, service.replicasForecaster, service.floor ?? []);
  put(host, make, 130, [times, replicas, ...(ours ? [service.floor ?? times.map(() => null)] : [])], now, [], top);
}

function put(host, make, height, data, now, spans, top) {
  const chart = charts.get(host) ?? new Chart(host, { make, height, sync: `demo-${host.dataset.service}` });
  charts.set(host, chart);
  chart.top = top;
  chart.set(data, { now, spans });
}

const DRAW = { "demo-load": drawLoad, "demo-replicas": drawReplicas };

async function changed(part) {
  if (!globalThis.uPlot) return;
  let told;
  try {
    const answer = await fetch("/api/v1/demo", { cache: "no-store" });
    if (!answer.ok) return;
    told = await answer.json();
  } catch {
    return; // the page's own status line says that the service does not answer
  }
  const services = new Map(told.services.map((one) => [one.name, one]));
  for (const host of part.querySelectorAll("[data-chart]")) {
    const service = services.get(host.dataset.service);
    if (!service?.times?.length) continue;
    DRAW[host.dataset.chart](host, service, service.times.map(seconds), seconds(told.now));
    host.dataset.ready = "";
  }
}

follow(changed);
