// What all charts share: colours of the scheme in use, sizes, axes, the line of the present, shaded spans, a read-out.

const DARK = matchMedia("(prefers-color-scheme: dark)");
const short = new Intl.NumberFormat(undefined, { notation: "compact", maximumSignificantDigits: 4 });
const clock = new Intl.DateTimeFormat(undefined, { weekday: "short", hour: "2-digit", minute: "2-digit" });

export const number = (value) => (value == null ? "–" : short.format(value));

/** A colour of page.css. */
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** RFC 3339 or Unix seconds -> Unix seconds. */
export const seconds = (time) => (typeof time === "number" ? time : Date.parse(time) / 1000);

/** One chart in `host`, made anew when the scheme changes, its data set when it does. `make`: () => {series, bands}. */
export class Chart {
  constructor(host, { make, height = 260, now = null, spans = [], readout = null, sync = null }) {
    Object.assign(this, { host, make, height, now, spans, readout, sync, top: null, plot: null, data: null });
    new ResizeObserver(() => this.resize()).observe(host);
    DARK.addEventListener("change", () => this.rebuild());
  }

  set(data, { now = this.now, spans = this.spans, shape = "" } = {}) {
    Object.assign(this, { data, now, spans });
    if (this.plot && this.shape === shape) this.plot.setData(data);
    else {
      this.shape = shape;
      this.rebuild();
    }
  }

  resize() {
    const width = Math.floor(this.host.clientWidth);
    if (this.plot && width > 0 && width !== this.plot.width) this.plot.setSize({ width, height: this.height });
  }

  rebuild() {
    if (!this.data) return;
    this.plot?.destroy();
    const axis = { stroke: colour("soft"), grid: { stroke: colour("grid"), width: 1 }, ticks: { stroke: colour("grid") } };
    const font = `12px ${getComputedStyle(document.body).fontFamily}`;
    const { series, bands } = this.make();
    this.plot = new globalThis.uPlot(
      {
        width: Math.max(200, Math.floor(this.host.clientWidth)),
        height: this.height,
        legend: { show: false },
        cursor: { drag: { x: false, y: false }, points: { size: 6 }, ...(this.sync ? { sync: { key: this.sync } } : {}) },
        scales: { x: { time: true }, y: { range: (_, low, high) => [Math.min(0, low ?? 0), this.top ?? ((high ?? 1) * 1.08 || 1)] } },
        axes: [
          { ...axis, font, space: 70 },
          { ...axis, font, size: 52, space: 20, values: (_, ticks) => ticks.map(number) },
        ],
        series: [{}, ...series],
        bands,
        hooks: {
          drawAxes: [(plot) => this.shade(plot)],
          draw: [(plot) => this.present(plot)],
          setCursor: [(plot) => this.read(plot)],
        },
      },
      this.data,
      this.host,
    );
  }

  /** Spans {from, until, colour} behind the lines. */
  shade(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    for (const { from, until, paint } of this.spans) {
      const left = plot.valToPos(from, "x", true), right = plot.valToPos(until, "x", true);
      ctx.fillStyle = colour(paint);
      ctx.fillRect(left, bbox.top, Math.max(2, right - left), bbox.height);
    }
    ctx.restore();
  }

  present(plot) {
    if (this.now == null) return;
    const { ctx, bbox } = plot, x = plot.valToPos(this.now, "x", true);
    if (x < bbox.left || x > bbox.left + bbox.width) return;
    ctx.save();
    ctx.strokeStyle = colour("soft");
    ctx.fillStyle = colour("soft");
    ctx.setLineDash([4, 4]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.font = `${12 * devicePixelRatio}px ${getComputedStyle(document.body).fontFamily}`;
    ctx.textAlign = "left";
    const room = bbox.left + bbox.width - x;
    if (room > 40 * devicePixelRatio) ctx.fillText("now", x + 4 * devicePixelRatio, bbox.top + 12 * devicePixelRatio);
    ctx.restore();
  }

  read(plot) {
    if (!this.readout) return;
    const { idx } = plot.cursor;
    if (idx == null) {
      this.readout.textContent = "";
      return;
    }
    const told = plot.series.slice(1).flatMap((one, i) => {
      const value = plot.data[i + 1][idx];
      return value == null || !one.label ? [] : [`${one.label} ${number(value)}`];
    });
    this.readout.textContent = [clock.format(new Date(plot.data[0][idx] * 1000)), ...told].join(" · ");
  }
}

/** A line of a chart. */
export const line = (label, name, more = {}) => ({ label, stroke: colour(name), width: 2, points: { show: false }, ...more });

/** A line that keeps its value until the next one. */
export const step = (label, name, more = {}) => line(label, name, { paths: globalThis.uPlot.paths.stepped({ align: 1 }), ...more });
