// The compressed forms, by the browser's own codecs (WebCodecs): H.264 pictures in Annex B, and Opus sound.
//
// Each class is given where its results go, and `failed(error)`, which is called once: it is of no use from then on.

const H264 = "avc1.42E01F";  // Constrained Baseline; its parameters come with each key frame
const PICTURE_BITS_PER_S = 600_000;
const SOUND_BITS_PER_S = 32_000;
const PACKET_US = 20_000;
const OPUS_AHEAD_MS = 6.5;  // so much what is decoded comes later than what was encoded: libopus looks ahead
const MOST_WAITING = 3;  // pictures; more are left out before they are encoded
const DECODED_HZ = 48_000;

export const PLAIN = { pictures: "jpeg", sound: "pcm" };

const pictureEncoder = ([width, height], framerate) => ({
  codec: H264, width, height, framerate, bitrate: PICTURE_BITS_PER_S, latencyMode: "realtime", avc: { format: "annexb" },
});
const soundEncoder = (sampleRate) => ({
  codec: "opus", sampleRate, numberOfChannels: 1, bitrate: SOUND_BITS_PER_S, opus: { frameDuration: PACKET_US },
});
const PICTURE_DECODER = { codec: H264, optimizeForLatency: true };
const SOUND_DECODER = { codec: "opus", sampleRate: DECODED_HZ, numberOfChannels: 1 };

async function can(name, config) {
  return name in globalThis && (await globalThis[name].isConfigSupported(config).catch(() => null))?.supported === true;
}

/** What can be compressed, of what is sent and of what is received, by this browser and by the server. */
export async function compressedForms(config) {
  const [sendsPictures, sendsSound, showsPictures, playsSound] = await Promise.all([
    can("VideoEncoder", pictureEncoder(config.user_picture, config.video_fps)),
    can("AudioEncoder", soundEncoder(config.sample_rate_hz)),
    can("VideoDecoder", PICTURE_DECODER),
    can("AudioDecoder", SOUND_DECODER),
  ]);
  const forms = (pictures, sound) => ({
    pictures: pictures && config.forms.pictures.includes("h264") ? "h264" : PLAIN.pictures,
    sound: sound && config.forms.sound.includes("opus") ? "opus" : PLAIN.sound,
  });
  return { send: forms(sendsPictures, sendsSound), receive: forms(showsPictures, playsSound) };
}

function bytesOf(chunk) {
  const bytes = new Uint8Array(chunk.byteLength);
  chunk.copyTo(bytes);
  return bytes;
}

export class PictureEncoder {
  /** `send(isKey, timeMs, bytes)` says whether that was sent: after one that was not, a key frame comes next. */
  constructor(config, send, failed) {
    this.send = send;
    this.wantsKey = true;
    this.encoder = new VideoEncoder({ output: (chunk) => this.encoded(chunk), error: failed });
    this.encoder.configure(pictureEncoder(config.user_picture, config.video_fps));
  }

  encode(timeMs, canvas) {
    if (this.encoder.state !== "configured" || this.encoder.encodeQueueSize >= MOST_WAITING) {
      return;
    }
    const frame = new VideoFrame(canvas, { timestamp: Math.round(timeMs * 1000) });
    this.encoder.encode(frame, { keyFrame: this.wantsKey });
    this.wantsKey = false;
    frame.close();
  }

  encoded(chunk) {
    const isKey = chunk.type === "key";
    if (isKey || !this.hasGap) {
      this.hasGap = !this.send(isKey, chunk.timestamp / 1000, bytesOf(chunk));
      this.wantsKey ||= this.hasGap;
    }
  }

  close() {
    close(this.encoder);
  }
}

export class SoundEncoder {
  /** `send(timeMs, bytes)` is given the time of the first sample that is decoded. */
  constructor(config, send, failed) {
    this.rateHz = config.sample_rate_hz;
    const output = (chunk) => send(chunk.timestamp / 1000 - OPUS_AHEAD_MS, bytesOf(chunk));
    this.encoder = new AudioEncoder({ output, error: failed });
    this.encoder.configure(soundEncoder(this.rateHz));
  }

  encode(timeMs, samples) {
    if (this.encoder.state === "configured") {
      const data = new AudioData({
        format: "f32-planar", sampleRate: this.rateHz, numberOfFrames: samples.length, numberOfChannels: 1,
        timestamp: Math.round(timeMs * 1000), data: samples,
      });
      this.encoder.encode(data);
      data.close();
    }
  }

  close() {
    close(this.encoder);
  }
}

export class PictureDecoder {
  /** `show(timeMs, VideoFrame)`, which is to be closed; `ask()` when a key frame is needed. */
  constructor({ show, ask, failed }) {
    this.ask = ask;
    this.waits = true;
    this.decoder = new VideoDecoder({ output: (frame) => show(frame.timestamp / 1000, frame), error: failed });
    this.decoder.configure(PICTURE_DECODER);
  }

  decode(isKey, timeMs, data) {
    if (this.decoder.state !== "configured") {
      return;
    }
    this.waits &&= !isKey;
    if (!this.waits) {
      const timestamp = Math.round(timeMs * 1000);
      this.decoder.decode(new EncodedVideoChunk({ type: isKey ? "key" : "delta", timestamp, data }));
    } else if (!this.hasAsked) {
      this.hasAsked = true;
      this.ask();
    }
  }

  close() {
    close(this.decoder);
  }
}

export class SoundDecoder {
  /** `play(timeMs, Float32Array, rateHz)`. */
  constructor({ play, failed }) {
    const output = (data) => {
      const samples = new Float32Array(data.numberOfFrames);
      data.copyTo(samples, { planeIndex: 0, format: "f32-planar" });
      play(data.timestamp / 1000, samples, data.sampleRate);
      data.close();
    };
    this.decoder = new AudioDecoder({ output, error: failed });
    this.decoder.configure(SOUND_DECODER);
  }

  decode(timeMs, data) {
    if (this.decoder.state === "configured") {
      this.decoder.decode(new EncodedAudioChunk({ type: "key", timestamp: Math.round(timeMs * 1000), data }));
    }
  }

  close() {
    close(this.decoder);
  }
}

function close(codec) {
  if (codec.state !== "closed") {
    codec.close();
  }
}
