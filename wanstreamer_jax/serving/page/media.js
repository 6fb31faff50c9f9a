// Media as messages, both ways, in the forms that suit the network and the browser.

import { PLAIN, compressedForms } from "./codecs.js";
import { HERE } from "./connection.js";
import { Receiving } from "./receiving.js";
import { Sending } from "./sending.js";
import { plainFromHere } from "./words.js";

export class Media {
  /** `playback` plays what comes; `say(text)` tells the user. */
  constructor(connection, playback, say) {
    Object.assign(this, { connection, say });
    const ask = () => connection.send({ type: "key_frame" });
    this.sending = new Sending((...media) => connection.media(...media), (what) => say(plainFromHere("sent", what)));
    this.receiving = new Receiving(playback, { ask, failed: (what) => this.receivePlain(what) });
    connection.addEventListener("media", ({ detail }) => this.receiving.take(detail));
    connection.addEventListener("key_frame", () => this.sending.renew());
  }

  /** A conversation begins; `wish` is "plain", "compressed", or "" for what suits. The forms to ask the server for. */
  async begin(config, wish) {
    const wants = wish === "compressed" || wish === "" && !HERE.has(location.hostname);
    const canWant = wants && this.connection.transport === "websocket";
    const { send, receive } = canWant ? await compressedForms(config) : { send: PLAIN, receive: PLAIN };
    this.sending.begin(config, send);
    this.receiving.begin(config);
    this.wanted = receive;
    return receive;
  }

  receivePlain(what) {
    this.say(plainFromHere("received", what));
    this.wanted = { ...this.wanted, [what]: PLAIN[what] };
    this.connection.send({ type: "forms", ...this.wanted });
  }

  end() {
    this.sending.end();
    this.receiving.end();
  }
}
