// Devices, the world that a conversation begins with, and access.

const LARGEST_PORTRAIT = 1024;  // pixels a side: it is made smaller here, whatever was chosen
const KINDS = { audioinput: ["mic-select", "microphone"], videoinput: ["camera-select", "camera"], audiooutput: ["speaker-select", "speaker"] };

const byId = (id) => document.getElementById(id);

export class Settings {
  /** `changed(kind)` is called when the user chooses another device; kind is that of enumerateDevices. */
  constructor(changed) {
    this.dialog = byId("settings-dialog");
    byId("settings-button").onclick = () => this.show();
    this.dialog.onclick = ({ target }) => target === this.dialog && this.dialog.close();
    for (const [kind, [id]] of Object.entries(KINDS)) {
      byId(id).onchange = () => changed(kind);
    }
    byId("speaker-label").hidden = !("setSinkId" in AudioContext.prototype);
    byId("transport-select").value = localStorage.getItem("transport") ?? "";
    byId("transport-select").onchange = ({ target }) => localStorage.setItem("transport", target.value);
    byId("forms-select").value = localStorage.getItem("forms") ?? "";
    byId("forms-select").onchange = ({ target }) => localStorage.setItem("forms", target.value);
    byId("persona").value = localStorage.getItem("persona") ?? "";
    byId("persona").onchange = ({ target }) => localStorage.setItem("persona", target.value);
    navigator.mediaDevices?.addEventListener("devicechange", () => this.listDevices());
  }

  show() {
    this.listDevices();
    this.dialog.showModal();
  }

  chosen(kind) {
    return byId(KINDS[kind][0]).value;
  }

  async listDevices() {
    const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
    for (const [kind, [id, word]] of Object.entries(KINDS)) {
      const select = byId(id);
      const { value } = select;
      const found = devices.filter((device) => device.kind === kind && device.deviceId && device.deviceId !== "default");
      const options = found.map((device, i) => new Option(device.label || `${word} ${i + 1}`, device.deviceId));
      select.replaceChildren(new Option(`the system's ${word}`, ""), ...options);
      select.value = found.some((device) => device.deviceId === value) ? value : "";
    }
  }

  /** "websocket", "webrtc", or "" for either. */
  get transport() {
    return byId("transport-select").value;
  }

  /** "plain", "compressed", or "" for what suits the network. */
  get forms() {
    return byId("forms-select").value;
  }

  /** What the server takes: whether it records, and whether it wants a token. */
  adapt({ records, needsToken }) {
    byId("keep-fieldset").hidden = !records;
    if (needsToken) {
      byId("token-fieldset").hidden = false;
    }
  }

  /** From the settings, or once from the page's address, from which it then disappears. */
  get token() {
    const given = new URLSearchParams(location.hash.slice(1)).get("token");
    if (given) {
      byId("token").value = given;
      history.replaceState(null, "", location.pathname);
    }
    return byId("token").value.trim();
  }

  /** The world, as the server takes it; an Error in words when a file is no picture or no sound. */
  async world(config) {
    const [portrait] = byId("portrait").files;
    const [voice] = byId("voice").files;
    return {
      persona: byId("persona").value.trim(),
      portrait: portrait && (await portraitBytes(portrait)),
      voice: voice && (await voiceSamples(voice, config)),
      record: byId("keep").checked && config.records,
    };
  }
}

async function portraitBytes(file) {
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Error(`${file.name} is no picture that this browser can read.`);
  });
  const scale = Math.min(1, LARGEST_PORTRAIT / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(Math.ceil(bitmap.width * scale), Math.ceil(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
  return blob.arrayBuffer();
}

async function voiceSamples(file, config) {
  const rateHz = config.sample_rate_hz;
  const decoder = new OfflineAudioContext(1, 1, rateHz);  // decoding brings sound to its rate
  const sound = await decoder.decodeAudioData(await file.arrayBuffer()).catch(() => {
    throw new Error(`${file.name} is no sound that this browser can read.`);
  });
  const channels = Array.from({ length: sound.numberOfChannels }, (_, i) => sound.getChannelData(i));
  const length = Math.min(sound.length, Math.floor(config.limits.voice_s * rateHz));
  return Int16Array.from({ length }, (_, i) => {
    const value = channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length;
    return Math.max(-32768, Math.min(32767, Math.round(value * 32767)));
  });
}
