// What the user does as messages, plain or compressed.

import { KEY_PICTURE, NEXT_PICTURE, PACKET, PICTURE, SOUND } from "./connection.js";
import { PictureEncoder, SoundEncoder } from "./codecs.js";

const QUALITY = 0.85;

export class Sending {
  /** `send(kind, timeMs, bytes)` says whether that was sent; `failed(what)` is told what goes on plain. */
  constructor(send, failed) {
    this.send = send;
    this.failed = failed;
    this.pictures = this.speech = null;
  }

  /** Send in these forms from now on. */
  begin(config, forms) {
    this.end();
    if (forms.pictures === "h264") {
      const send = (isKey, timeMs, bytes) => this.send(isKey ? KEY_PICTURE : NEXT_PICTURE, timeMs, bytes);
      this.pictures = new PictureEncoder(config, send, () => this.fail("pictures"));
    }
    if (forms.sound === "opus") {
      this.speech = new SoundEncoder(config, (timeMs, bytes) => this.send(PACKET, timeMs, bytes), () => this.fail("sound"));
    }
  }

  fail(what) {
    this[what === "sound" ? "speech" : "pictures"] = null;
    this.failed(what);
  }

  /** The server cannot use pictures that need those before. */
  renew() {
    if (this.pictures) {
      this.pictures.wantsKey = true;
    }
  }

  sound(timeMs, samples) {
    if (this.speech) {
      this.speech.encode(timeMs, samples);
    } else {
      this.send(SOUND, timeMs, Int16Array.from(samples, (value) => Math.max(-32768, Math.min(32767, Math.round(value * 32767)))));
    }
  }

  async picture(timeMs, canvas) {
    if (this.pictures) {
      this.pictures.encode(timeMs, canvas);
    } else {
      const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: QUALITY });
      this.send(PICTURE, timeMs, await blob.arrayBuffer());
    }
  }

  end() {
    this.pictures?.close();
    this.speech?.close();
    this.pictures = this.speech = null;
  }
}
