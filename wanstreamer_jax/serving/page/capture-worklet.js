// The microphone as pieces of 10 ms at the agent's rate.

import { Resampler } from "./resampler.js";

class Capture extends AudioWorkletProcessor {
  constructor({ processorOptions: { rateHz } }) {
    super();
    this.resampler = new Resampler(sampleRate, rateHz);
    this.piece = new Float32Array(rateHz / 100);
    this.filled = 0;
  }

  process([input]) {
    const resampled = this.resampler.push(input[0] ?? new Float32Array(128));
    for (const sample of resampled) {
      this.piece[this.filled++] = sample;
      if (this.filled === this.piece.length) {
        this.port.postMessage({ samples: this.piece, endMs: currentTime * 1000 });
        this.piece = new Float32Array(this.piece.length);
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);
