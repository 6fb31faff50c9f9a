// Sound from one rate to another, piece by piece, without seams: windowed sinc, looked up in a table.

const LOBES = 12;  // of the sinc, on each side
const STEPS = 256;  // of the table, between two samples

/** A table of the low-pass at `cutoff` (1: half the input's rate), for distances of 0 to `reach` samples. */
function lowPass(cutoff, reach) {
  const table = new Float32Array(reach * STEPS + 2);
  for (let i = 0; i < table.length; i++) {
    const x = i / STEPS;
    const sinc = x === 0 ? 1 : Math.sin(Math.PI * cutoff * x) / (Math.PI * cutoff * x);
    table[i] = x >= reach ? 0 : cutoff * sinc * (0.5 + 0.5 * Math.cos((Math.PI * x) / reach));
  }
  return table;
}

export class Resampler {
  constructor(fromHz, toHz) {
    this.step = fromHz / toHz;
    const cutoff = 0.94 * Math.min(1, toHz / fromHz);
    this.reach = Math.ceil(LOBES / cutoff);
    this.table = lowPass(cutoff, this.reach);
    this.held = new Float32Array(2 * this.reach);
    this.at = this.reach;  // of the next output, in `held`
  }

  /** The output that these samples complete. */
  push(samples) {
    const line = new Float32Array(this.held.length + samples.length);
    line.set(this.held);
    line.set(samples, this.held.length);
    const out = new Float32Array(Math.max(0, Math.ceil((line.length - this.reach - this.at) / this.step)));
    for (let i = 0; i < out.length; i++, this.at += this.step) {
      out[i] = this.valueAt(line, this.at);
    }
    const kept = 2 * this.reach;
    this.at -= line.length - kept;
    this.held = line.slice(line.length - kept);
    return out;
  }

  valueAt(line, at) {
    const first = Math.max(0, Math.ceil(at - this.reach));
    const last = Math.min(line.length - 1, Math.floor(at + this.reach));
    let sum = 0;
    for (let j = first; j <= last; j++) {
      const place = Math.abs(at - j) * STEPS;
      const below = Math.floor(place);
      const above = place - below;
      sum += line[j] * (this.table[below] * (1 - above) + this.table[below + 1] * above);
    }
    return sum;
  }
}
