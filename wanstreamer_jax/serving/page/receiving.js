// The agent's messages, plain or compressed, as sound and pictures to be played.

import { KEY_PICTURE, NEXT_PICTURE, PACKET, PICTURE, SOUND } from "./connection.js";
import { PictureDecoder, SoundDecoder } from "./codecs.js";

export class Receiving {
  /** `ask()` when a key frame is needed, `failed(what)` when something should come plain. */
  constructor(playback, { ask, failed }) {
    Object.assign(this, { playback, ask, failed });
    this.pictures = this.speech = null;
  }

  /** Another conversation begins. */
  begin(config) {
    this.end();
    this.rateHz = config.sample_rate_hz;
  }

  take({ kind, timeMs, bytes }) {
    switch (kind) {
      case SOUND:
        this.playback.sound(timeMs, Float32Array.from(new Int16Array(bytes), (value) => value / 32767), this.rateHz);
        break;
      case PICTURE:
        this.show(timeMs, new Blob([bytes], { type: "image/jpeg" }));
        break;
      case PACKET:
        this.speech ??= new SoundDecoder({
          play: (...piece) => this.playback.sound(...piece),
          failed: () => this.failed("sound"),
        });
        this.speech.decode(timeMs, bytes);
        break;
      case KEY_PICTURE:
      case NEXT_PICTURE:
        this.pictures ??= new PictureDecoder({
          show: (atMs, frame) => this.show(atMs, frame).finally(() => frame.close()),
          ask: this.ask,
          failed: () => this.failed("pictures"),
        });
        this.pictures.decode(kind === KEY_PICTURE, timeMs, bytes);
    }
  }

  async show(timeMs, image) {
    this.playback.picture(timeMs, await createImageBitmap(image));
  }

  end() {
    this.pictures?.close();
    this.speech?.close();
    this.pictures = this.speech = null;
  }
}
