// What the agent does, heard and seen in step: pictures wait for their moment of the sound.

const MOST_PICTURES = 24;  // that wait
const SILENT_MS = 250;  // without news from the sound, pictures are shown as they come

export class Playback {
  /** `shown` is called with the time of each picture on the agent's clock when it is drawn. */
  constructor(canvas, shown) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.shown = shown;
    this.pictures = [];
    this.bufferedMs = 0;
    this.level = 0;
    this.clock = null;  // {atMs: of this page, heardMs: of the agent}
  }

  /** Begin; `audio` is an AudioContext that runs. */
  async start(audio) {
    this.audio = audio;
    await audio.audioWorklet.addModule("/page/playback-worklet.js");
    this.node = new AudioWorkletNode(audio, "playback", {
      numberOfInputs: 0,
      outputChannelCount: [1],
    });
    this.node.port.onmessage = ({ data }) => this.hear(data);
    this.node.connect(audio.destination);
    this.draw = this.draw.bind(this);
    this.frame = requestAnimationFrame(this.draw);
  }

  stop() {
    cancelAnimationFrame(this.frame);
    this.node?.disconnect();
    this.node = null;
    this.clear();
  }

  /** Forget what waits: another conversation begins. */
  clear() {
    this.pictures.forEach(({ bitmap }) => bitmap.close());
    this.pictures = [];
    this.clock = null;
    this.level = 0;
  }

  sound(timeMs, samples, rateHz) {
    this.node?.port.postMessage({ timeMs, samples, rateHz }, [samples.buffer]);
  }

  picture(timeMs, bitmap) {
    this.pictures.push({ timeMs, bitmap });
    this.pictures.sort((a, b) => a.timeMs - b.timeMs);
    while (this.pictures.length > MOST_PICTURES) {
      this.pictures.shift().bitmap.close();
    }
  }

  hear({ atMs, heardMs, bufferedMs, level }) {
    this.bufferedMs = bufferedMs;
    this.level = level;
    if (heardMs !== null) {
      const behindMs = this.audio.currentTime * 1000 - atMs;
      const latencyMs = ((this.audio.outputLatency || 0) + (this.audio.baseLatency || 0)) * 1000;
      this.clock = { atMs: performance.now() - behindMs + latencyMs, heardMs };
    }
  }

  /** Draw the newest picture whose moment has come. */
  draw(nowMs) {
    this.frame = requestAnimationFrame(this.draw);
    const stale = !this.clock || nowMs - this.clock.atMs > SILENT_MS;
    const momentMs = stale ? Infinity : this.clock.heardMs + nowMs - this.clock.atMs;
    let due = null;
    while (this.pictures.length && this.pictures[0].timeMs <= momentMs) {
      due?.bitmap.close();
      due = this.pictures.shift();
      this.shown(due.timeMs, nowMs);
    }
    if (due) {
      if (this.canvas.width !== due.bitmap.width || this.canvas.height !== due.bitmap.height) {
        this.canvas.width = due.bitmap.width;
        this.canvas.height = due.bitmap.height;
      }
      this.context.drawImage(due.bitmap, 0, 0);
      due.bitmap.close();
    }
  }
}
