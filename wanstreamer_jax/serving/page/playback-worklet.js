// The agent's voice, piece by piece, through a small buffer: late units are waited for, a backlog is skipped.
//
// How much waits when the next piece comes is what there is to spare: the least of it, over some seconds, is kept at
// what is held. More is made up for by playing a hundredth faster, which nobody hears; far more is skipped.
//
// It also is the clock by which pictures are shown: it tells which moment of the agent is being heard.

import { Resampler } from "./resampler.js";

const LEAST_HOLD_MS = 10;  // so much is waited before a first unit is played, in case the next one is late
const MOST_HOLD_MS = 160;
const MORE_HOLD_MS = 20;  // after sound has run out
const LESS_HOLD_MS = 1;  // after a watch in which it has not
const BACKLOG_MS = 480;  // more than that is skipped at once
const MOST_SURPLUS_MS = 120;  // more than that is skipped, after a watch
const WATCH_MS = 3200;
const FASTER = 1.01;
const FADE_SAMPLES = 240;
const REPORT_EVERY = 8;  // blocks of 128 samples

class Playback extends AudioWorkletProcessor {
  constructor() {
    super();
    this.rateHz = 0;  // of what came last
    this.units = [];  // {startMs, samples at the output's rate, used: which may be between two of them}
    this.holdMs = LEAST_HOLD_MS;
    this.playing = false;
    this.waitUntil = Infinity;
    this.gain = 0;
    this.last = 0;  // what was put out
    this.tail = 0;  // of what was cut off
    this.leastMs = Infinity;
    this.watchedMs = 0;
    this.surplus = 0;  // samples, to be made up for
    this.nBlocks = 0;
    this.energy = 0;
    this.port.onmessage = ({ data }) => this.take(data);
  }

  get bufferedMs() {
    return this.units.reduce((sum, unit) => sum + unit.samples.length - unit.used, 0) * 1000 / sampleRate;
  }

  take({ timeMs, samples, rateHz }) {
    if (rateHz !== this.rateHz) {
      this.rateHz = rateHz;
      this.resampler = new Resampler(rateHz, sampleRate);
    }
    const before = this.bufferedMs;
    this.units.push({ startMs: timeMs, samples: this.resampler.push(samples), used: 0 });
    if (!this.playing && this.waitUntil === Infinity) {
      this.waitUntil = currentTime + this.holdMs / 1000;
    }
    if (before > BACKLOG_MS) {
      this.skip(before - this.holdMs);
    } else {
      this.watch(before, samples.length * 1000 / rateHz);
    }
  }

  /** `spareMs` waited when another `lastMs` came. */
  watch(spareMs, lastMs) {
    this.leastMs = Math.min(this.leastMs, spareMs);
    this.watchedMs += lastMs;
    if (this.watchedMs >= WATCH_MS) {
      const surplusMs = Math.max(0, this.leastMs - this.holdMs);
      if (surplusMs > MOST_SURPLUS_MS) {
        this.skip(surplusMs);
      } else {
        this.surplus = surplusMs * sampleRate / 1000;
      }
      this.holdMs = Math.max(LEAST_HOLD_MS, this.holdMs - LESS_HOLD_MS);
      this.leastMs = Infinity;
      this.watchedMs = 0;
    }
  }

  skip(ms) {
    let n = Math.floor(ms * sampleRate / 1000);
    this.cutOff();
    while (n > 0 && this.units.length) {
      const unit = this.units[0];
      const used = Math.min(n, unit.samples.length - unit.used);
      n -= used;
      this.use(unit, used);
    }
  }

  process(_inputs, [[output]]) {
    if (!this.playing && currentTime >= this.waitUntil) {
      this.playing = true;
      this.waitUntil = Infinity;
    }
    for (let i = 0; i < output.length; i++) {
      this.tail *= 1 - 4 / FADE_SAMPLES;
      this.last = this.tail + (this.playing ? this.next() : 0);
      this.energy += this.last * this.last;
      output[i] = this.last;
    }
    if (++this.nBlocks % REPORT_EVERY === 0) {
      this.report(output.length);
    }
    return true;
  }

  next() {
    const unit = this.units[0];
    if (!unit) {
      this.playing = false;
      this.holdMs = Math.min(MOST_HOLD_MS, this.holdMs + MORE_HOLD_MS);
      this.cutOff();
      return this.tail;
    }
    this.gain = Math.min(1, this.gain + 1 / FADE_SAMPLES);
    const value = this.between(unit) * this.gain;
    if (this.surplus > 0) {
      this.surplus -= FASTER - 1;
      this.use(unit, FASTER);
    } else {
      this.use(unit, 1);
    }
    return value;
  }

  /** The sample where `unit` is being played. */
  between({ samples, used }) {
    const at = Math.floor(used);
    const after = samples[at + 1] ?? this.units[1]?.samples[0] ?? samples[at];
    return samples[at] + (used - at) * (after - samples[at]);
  }

  use(unit, n) {
    unit.used += n;
    if (unit.used >= unit.samples.length) {
      this.units.shift();
      if (this.units.length) {
        this.units[0].used = unit.used - unit.samples.length;
      }
    }
  }

  /** What follows does not go on where this ends: one fades out, the other in. */
  cutOff() {
    this.tail = this.last;
    this.gain = 0;
    this.surplus = 0;
  }

  report(blockSize) {
    const unit = this.units[0];
    this.port.postMessage({
      atMs: currentTime * 1000,
      heardMs: this.playing && unit ? unit.startMs + unit.used * 1000 / sampleRate : null,
      bufferedMs: this.bufferedMs,
      level: Math.sqrt(this.energy / (REPORT_EVERY * blockSize)),
    });
    this.energy = 0;
  }
}

registerProcessor("playback", Playback);
