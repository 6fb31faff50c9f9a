// The agent as tracks: a video element plays them, and what it shows is drawn, so that all else is as with pieces.

const TICKS_PER_MS = 90;  // of the stamps of pictures
const HALF = 2 ** 31;  // stamps that are farther apart went round
const MOST_SENT = 8;  // units whose stamps are remembered
const LOOK_EVERY_MS = 1000;

export class TrackPlayback {
  /** `shown` is called with the time of each picture on the agent's clock when it is drawn. */
  constructor(canvas, video, unitMs, shown) {
    Object.assign(this, { canvas, video, unitMs, shown });
    this.context = canvas.getContext("2d");
    this.sent = [];
    this.bufferedMs = 0;
  }

  /** Begin; `audio` is an AudioContext that runs. */
  async start(audio) {
    this.audio = audio;
    this.node = audio.createGain();  // what is heard, for recordings; the element plays it
    this.analyser = audio.createAnalyser();
    this.analyser.fftSize = 1024;
    this.wave = new Float32Array(this.analyser.fftSize);
    this.node.connect(this.analyser);
  }

  /** Play a stream; `receiver` is that of its sound. */
  attach(stream, receiver) {
    this.release();
    this.video.srcObject = stream;
    this.video.play().catch(() => {});  // a page in the background may have to wait
    this.source = this.audio.createMediaStreamSource(stream);
    this.source.connect(this.node);
    this.looking = setInterval(() => this.look(receiver), LOOK_EVERY_MS);
    this.again(stream);
  }

  again(stream) {
    const drawn = (nowMs, facts) => {
      if (this.video.srcObject === stream) {
        this.draw(facts?.expectedDisplayTime ?? nowMs, facts?.rtpTimestamp);
        this.again(stream);
      }
    };
    if (this.video.requestVideoFrameCallback) {
      this.video.requestVideoFrameCallback(drawn);
    } else {
      requestAnimationFrame((nowMs) => drawn(nowMs));
    }
  }

  draw(nowMs, stamp) {
    const { canvas, video } = this;
    if (canvas.width !== video.videoWidth || canvas.height !== video.videoHeight) {
      [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    }
    this.context.drawImage(video, 0, 0);
    this.shown(this.timeMs(stamp), nowMs);
  }

  /** The server says with which stamp it sends the first picture of a unit. */
  note({ unit, rtp_timestamp: stamp }) {
    this.sent = [{ unit, stamp }, ...this.sent].slice(0, MOST_SENT);
  }

  /** The agent's time of a picture; NaN when nobody knows. */
  timeMs(stamp) {
    const since = (from) => (stamp - from) >>> 0;
    const found = this.sent.find((sent) => since(sent.stamp) < HALF);
    return found && stamp !== undefined ? found.unit * this.unitMs + since(found.stamp) / TICKS_PER_MS : NaN;
  }

  /** How much of the sound waits in the browser's own buffer. */
  async look(receiver) {
    for (const { type, jitterBufferDelay: delay, jitterBufferEmittedCount: count } of (await receiver.getStats()).values()) {
      if (type === "inbound-rtp" && count > (this.count ?? 0)) {
        this.bufferedMs = (delay - (this.delay ?? 0)) / (count - (this.count ?? 0)) * 1000;
        [this.delay, this.count] = [delay, count];
      }
    }
  }

  get level() {
    if (!this.node || !this.source) {
      return 0;
    }
    this.analyser.getFloatTimeDomainData(this.wave);
    return Math.sqrt(this.wave.reduce((sum, value) => sum + value * value, 0) / this.wave.length);
  }

  /** Use another speaker; "" is the system's. */
  async setSinkId(id) {
    await this.video.setSinkId?.(id);
  }

  release() {
    clearInterval(this.looking);
    this.source?.disconnect();
    this.source = null;
    this.delay = this.count = undefined;
    this.video.srcObject = null;
  }

  stop() {
    this.clear();
    this.release();
    this.node?.disconnect();
    this.node = null;
  }

  /** Another conversation begins. */
  clear() {
    this.sent = [];
  }
}
