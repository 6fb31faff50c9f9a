// The agent's voice, piece by piece, through a small buffer: late units are waited for, a backlog is skipped.
//
// It also is the clock by which pictures are shown: it tells which moment of the agent is being heard.

import { Resampler } from "./resampler.js";

const FIRST_HOLD_MS = 40;  // so much is waited before a first unit is played, in case the next one is late
const MOST_HOLD_MS = 160;
const MORE_HOLD_MS = 20;  // after sound has run out
const BACKLOG_MS = 480;  // more than that is skipped
const SPARE_MS = 60;  // beyond what is held, for so much sound: then some is skipped
const WATCH_MS = 6400;
const FADE_SAMPLES = 240;
const REPORT_EVERY = 8;  // blocks of 128 samples

class Playback extends AudioWorkletProcessor {
  constructor() {
    super();
    this.rateHz = 0;  // of what came last
    this.units = [];  // {startMs, samples at the output's rate, used}
    this.holdMs = FIRST_HOLD_MS;
    this.playing = false;
    this.waitUntil = Infinity;
    this.gain = 0;
    this.last = 0;
    this.leastMs = Infinity;
    this.watchedMs = 0;
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
    this.leastMs = Math.min(this.leastMs, before);
    this.units.push({ startMs: timeMs, samples: this.resampler.push(samples), used: 0 });
    if (!this.playing && this.waitUntil === Infinity) {
      this.waitUntil = currentTime + this.holdMs / 1000;
    }
    if (before > BACKLOG_MS) {
      this.skip(before - this.holdMs);
    } else if ((this.watchedMs += samples.length * 1000 / rateHz) >= WATCH_MS) {
      this.watchedMs = 0;
      if (this.leastMs > this.holdMs + SPARE_MS) {
        this.skip(this.leastMs - this.holdMs);
      }
      this.leastMs = Infinity;
    }
  }

  skip(ms) {
    let n = Math.floor(ms * sampleRate / 1000);
    this.gain = 0;  // it fades in again
    while (n > 0 && this.units.length) {
      const unit = this.units[0];
      const used = Math.min(n, unit.samples.length - unit.used);
      unit.used += used;
      n -= used;
      if (unit.used === unit.samples.length) {
        this.units.shift();
      }
    }
  }

  process(_inputs, [[output]]) {
    if (!this.playing && currentTime >= this.waitUntil) {
      this.playing = true;
      this.waitUntil = Infinity;
    }
    for (let i = 0; i < output.length; i++) {
      output[i] = this.playing ? this.next() : this.fadeOut();
      this.energy += output[i] * output[i];
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
      return this.fadeOut();
    }
    this.gain = Math.min(1, this.gain + 1 / FADE_SAMPLES);
    this.last = unit.samples[unit.used++] * this.gain;
    if (unit.used === unit.samples.length) {
      this.units.shift();
    }
    return this.last;
  }

  fadeOut() {
    this.gain = 0;
    this.last *= 1 - 4 / FADE_SAMPLES;
    return this.last;
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
