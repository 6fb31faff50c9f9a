// What the user does: microphone and camera, as pieces of sound and pictures with times of one clock.

const FORGET_MS = 0.02;  // a piece: so fast the least delay of the sound is forgotten

export class Capture {
  /** `out.sound(timeMs, Float32Array)` and `await out.picture(timeMs, canvas)` are called as they come. */
  constructor(video, out) {
    this.video = video;
    this.out = out;
    this.cameraOn = true;
    this.sends = true;  // else it only tells how loud it is
    this.level = 0;
  }

  /** Begin. `config` is the server's, `stream` what the user has granted. */
  async start(audio, stream, config) {
    this.config = config;
    this.audio = audio;
    this.running = true;
    await audio.audioWorklet.addModule("/page/capture-worklet.js");
    this.setStream(stream);
  }

  /** Take another microphone or camera. */
  setStream(stream) {
    this.release();
    this.stream = stream;
    if (stream?.getAudioTracks().length) {
      this.listen();
    }
    if (stream?.getVideoTracks().length) {
      this.watch();
    }
  }

  release() {
    this.node?.disconnect();
    this.source?.disconnect();
    this.node = this.source = null;
    this.offsetMs = Infinity;
    this.video.srcObject = null;
    this.watching = (this.watching ?? 0) + 1;  // ends the loop that watches
  }

  stop() {
    this.running = false;
    this.release();
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = null;
  }

  listen() {
    this.source = this.audio.createMediaStreamSource(this.stream);
    this.node = new AudioWorkletNode(this.audio, "capture", {
      numberOfOutputs: 1,
      channelCount: 1,
      channelCountMode: "explicit",
      processorOptions: { rateHz: this.config.sample_rate_hz },
    });
    this.node.port.onmessage = ({ data }) => this.heard(data);
    this.source.connect(this.node);
    this.node.connect(this.audio.destination);  // it puts out silence; unconnected, it would not run everywhere
  }

  heard({ samples, endMs }) {
    this.offsetMs = Math.min(this.offsetMs + FORGET_MS, performance.now() - endMs);
    const lastsMs = samples.length * 1000 / this.config.sample_rate_hz;
    this.level = Math.sqrt(samples.reduce((sum, value) => sum + value * value, 0) / samples.length);
    this.out.sound(endMs + this.offsetMs - lastsMs, samples);
  }

  watch() {
    const { video } = this;
    video.srcObject = this.stream;
    video.play().catch(() => {});  // a page in the background may have to wait
    const [width, height] = this.config.user_picture;
    this.canvas = new OffscreenCanvas(width, height);
    this.context = this.canvas.getContext("2d", { alpha: false });
    const loop = this.watching;
    const periodMs = 1000 / this.config.video_fps;
    let dueMs = 0;
    const seen = (nowMs, facts) => {
      if (this.watching !== loop) {
        return;
      }
      if (this.cameraOn && nowMs >= dueMs - periodMs / 4) {
        dueMs = Math.max(dueMs + periodMs, nowMs);
        this.send(facts?.captureTime ?? nowMs);
      }
      this.again(seen, periodMs);
    };
    this.again(seen, periodMs);
  }

  again(seen, periodMs) {
    if (this.video.requestVideoFrameCallback) {
      this.video.requestVideoFrameCallback(seen);
    } else {
      setTimeout(() => seen(performance.now()), periodMs);
    }
  }

  /** The camera's picture as large as fits into the agent's eyes, on black. */
  async send(timeMs) {
    const { video, canvas, context } = this;
    if (!video.videoWidth || this.encoding || !this.sends) {
      return;
    }
    this.encoding = true;
    try {
      const scale = Math.min(canvas.width / video.videoWidth, canvas.height / video.videoHeight);
      const [width, height] = [video.videoWidth * scale, video.videoHeight * scale];
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.imageSmoothingQuality = "high";
      context.drawImage(video, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
      await this.out.picture(timeMs, canvas);
    } finally {
      this.encoding = false;
    }
  }
}

/** What the browser may use, as far as the user grants it: both, or one of the two, or an error of getUserMedia. */
export async function openDevices(microphone, camera) {
  const audio = {
    echoCancellation: true,
    noiseSuppression: true,
    autoGainControl: true,
    channelCount: 1,
    ...(microphone && { deviceId: { exact: microphone } }),
  };
  const video = {
    width: { ideal: 640 },
    height: { ideal: 360 },
    frameRate: { ideal: 25 },
    ...(camera && { deviceId: { exact: camera } }),
  };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio, video });
  } catch (error) {
    if (error.name !== "NotFoundError" && error.name !== "NotReadableError" && error.name !== "OverconstrainedError") {
      throw error;
    }
    return await navigator.mediaDevices.getUserMedia({ audio }).catch(() => navigator.mediaDevices.getUserMedia({ video }));
  }
}
