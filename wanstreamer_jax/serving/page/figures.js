// The figures over the picture: what is measured here, and what the server says of its units.

const REFRESH_MS = 500;
const RECENT = 25;  // units that a median is of
const SECOND_MS = 1000;
const TRANSPORTS = { websocket: "WebSocket", webrtc: "WebRTC" };

const element = (name) => document.getElementById(`figure-${name}`);
const ms = (value) => (value === null ? "–" : `${Math.round(value)} ms`);

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length ? sorted[sorted.length >> 1] : null;
}

export class Figures {
  /** `playback()` is what plays now. */
  constructor(panel, connection, playback, unitMs) {
    Object.assign(this, { panel, connection, playback, unitMs });
    this.clear();
    setInterval(() => this.refresh(), REFRESH_MS);
  }

  clear() {
    this.seenMs = new Map();  // of units that are not shown yet
    this.shownMs = [];
    this.latenciesMs = [];
    this.unitsMs = [];
    this.unit = null;
  }

  /** What the server says of a unit. */
  note(facts) {
    this.unit = facts;
    if (facts.seen_ms !== null) {
      this.seenMs.set(facts.unit, facts.seen_ms);
      this.unitsMs = [...this.unitsMs, facts.unit_ms].slice(-RECENT);
    }
  }

  /** A picture was drawn. The first of a unit is the first the user sees of the answer to what the unit had seen. */
  shown(timeMs, nowMs) {
    this.shownMs.push(nowMs);
    while (nowMs - this.shownMs[0] > SECOND_MS) {
      this.shownMs.shift();
    }
    const unit = Math.floor(timeMs / this.unitMs + 1e-6);
    if (this.seenMs.has(unit)) {
      this.latenciesMs = [...this.latenciesMs, nowMs - this.seenMs.get(unit)].slice(-RECENT);
      [...this.seenMs.keys()].filter((k) => k <= unit).forEach((k) => this.seenMs.delete(k));
    }
  }

  /** All figures, for people and for tests. */
  get values() {
    const nowMs = performance.now();
    return {
      fps: this.shownMs.filter((t) => nowMs - t <= SECOND_MS).length,
      unitMs: median(this.unitsMs),
      latencyMs: median(this.latenciesMs),
      late: this.unit ? this.unit.late + this.unit.skipped : 0,
      units: this.unit ? this.unit.unit + 1 : 0,
      rttMs: this.connection.rttMs,
      bufferedMs: this.playback().bufferedMs,
    };
  }

  refresh() {
    if (this.panel.hidden) {
      return;
    }
    const { fps, unitMs, latencyMs, late, units, rttMs, bufferedMs } = this.values;
    element("transport").textContent = TRANSPORTS[this.connection.transport];
    element("fps").textContent = `${fps} a second`;
    element("unit").textContent = unitMs === null ? "–" : `${Math.round(unitMs)} of ${this.unitMs} ms`;
    element("latency").textContent = ms(latencyMs);
    element("late").textContent = `${late} of ${units}`;
    element("rtt").textContent = ms(rttMs);
    element("buffer").textContent = ms(bufferedMs);
  }
}
