// A conversation with the server over a WebSocket or WebRTC, and again when it breaks off. docs/serving.md has the
// messages.

import { RtcLink } from "./rtc.js";
import { SocketLink } from "./socket.js";

const HEADER_BYTES = 9;
export const PICTURE = 1, SOUND = 2, PORTRAIT = 3, VOICE = 4, KEY_PICTURE = 5, NEXT_PICTURE = 6, PACKET = 7;
const IS_SOUND = new Set([SOUND, PACKET]);
const PING_EVERY_MS = 1000;
const SILENT_MS = 4000;  // without a pong, the connection is given up
const RETRY_MS = [300, 600, 1200, 2000];  // and 2 s from then on
const MOST_WAITING_BYTES = 1 << 18;  // pictures are left out when so much waits to be sent
export const HERE = new Set(["localhost", "127.0.0.1", "[::1]"]);  // there a WebSocket is quickest
const FINAL = new Set(["stopped", "deleted", "time_limit", "history_full", "bad_world", "too_many_wrong_messages"]);

/** An answer of the server that is no conversation; `status` is that of HTTP, 0 when there is no server. */
export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function fetched(path, token) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { headers, cache: "no-store" });
  } catch {
    throw new ServerError(0, "The server does not answer.");
  }
  if (response.ok || response.status === 503 && path === "/readyz") {
    return response.json();
  }
  throw new ServerError(response.status, (await response.text()).slice(0, 300));
}

export class Connection extends EventTarget {
  constructor() {
    super();
    this.token = "";
    this.wanted = false;
    this.rttMs = null;
    this.transport = "websocket";
    this.rtcFailed = false;
  }

  /** Whether the server is ready, and how many places are free; null when it does not answer. */
  look() {
    return fetched("/readyz").catch(() => null);
  }

  /** What the server is and takes; waits until it is ready and has room, and says why on the way. */
  async prepare() {
    for (let tries = 0; this.wanted; tries++) {
      try {
        const ready = await fetched("/readyz");
        if (ready.ready && ready.free > 0) {
          return await fetched("/v1/config", this.token);
        }
        this.tell("waiting", { state: ready.ready ? "full" : "loading", detail: ready.doing ?? "" });
      } catch (error) {
        if (error.status === 401 || error.status === 403) {
          throw error;
        }
        this.tell("waiting", { state: "reconnecting", detail: error.message });
      }
      await pause(RETRY_MS[Math.min(tries, RETRY_MS.length - 1)]);
    }
    return null;
  }

  /** Choose the transport: "websocket", "webrtc", or "" for what is likely to do best. */
  choose(wish, config) {
    const can = config.webrtc && "RTCPeerConnection" in window;
    const wants = wish === "webrtc" || wish === "" && !HERE.has(location.hostname) && !this.rtcFailed;
    this.transport = can && wants ? "webrtc" : "websocket";
    this.fallsBack = wish === "";
  }

  /** Open; `world` is {persona, portrait, voice, record, forms}, `stream` what the user has granted. */
  open(world, stream, config) {
    this.world = world;
    this.ending = null;
    this.clock = { rttMs: Infinity, offsetMs: NaN };  // page's - server's, as of the quickest ping
    const Link = this.transport === "webrtc" ? RtcLink : SocketLink;
    const link = new Link({ token: this.token, stream, config });
    this.link = link;
    link.onopen = () => this.begin(link);
    link.onmessage = (data) => link === this.link && this.take(data);
    link.onclose = () => this.closed(link);
    link.onmedia = (media, receiver) => link === this.link && this.tell("stream", { media, receiver });
  }

  begin(link) {
    const { persona, portrait, voice, record, forms } = this.world;
    if (portrait) {
      link.send(packed(PORTRAIT, 0, portrait));
    }
    if (voice) {
      link.send(packed(VOICE, 0, voice));
    }
    link.send(JSON.stringify({ type: "start", persona, record, ...forms }));
    this.pongMs = performance.now();
    this.pinging = setInterval(() => this.ping(link), PING_EVERY_MS);
    this.ping(link);
  }

  ping(link) {
    if (performance.now() - this.pongMs > SILENT_MS) {
      link.close({ atOnce: true });
      return;
    }
    this.send({ type: "ping", time_ms: performance.now() });
  }

  /** Take another microphone or camera. */
  setStream(stream) {
    this.link?.setStream?.(stream);
  }

  /** Media, unless they are tracks; pictures are left out while the network is behind. Whether it was sent. */
  media(kind, timeMs, bytes) {
    const limit = IS_SOUND.has(kind) ? 4 * MOST_WAITING_BYTES : MOST_WAITING_BYTES;
    const fits = this.link?.isOpen && this.transport === "websocket" && this.link.waitingBytes < limit;
    if (fits) {
      this.link.send(packed(kind, timeMs, bytes));
    }
    return Boolean(fits);
  }

  send(message) {
    if (this.link?.isOpen) {
      this.link.send(JSON.stringify(message));
    }
  }

  take(data) {
    if (typeof data !== "string") {
      const view = new DataView(data);
      this.tell("media", { kind: view.getUint8(0), timeMs: view.getFloat64(1, true), bytes: data.slice(HEADER_BYTES) });
      return;
    }
    const { type, ...facts } = JSON.parse(data);
    if (type === "pong") {
      this.ponged(facts);
    } else if (type === "goodbye") {
      this.ending = facts;
      this.link.close();
    } else if (type === "unit" && this.transport === "webrtc") {
      this.tell(type, { ...facts, seen_ms: this.capturedMs(facts.seen_ms) });
    } else {
      this.tell(type, facts);
    }
  }

  ponged({ time_ms: sentMs, server_ms: serverMs }) {
    this.pongMs = performance.now();
    this.rttMs = this.pongMs - sentMs;
    if (this.rttMs <= this.clock.rttMs) {
      this.clock = { rttMs: this.rttMs, offsetMs: (this.pongMs + sentMs) / 2 - serverMs };
    }
  }

  /** When that left this page which came to the server, by the server's clock, at a time; null when nobody knows. */
  capturedMs(serverMs) {
    const { rttMs, offsetMs } = this.clock;
    return serverMs === null || Number.isNaN(offsetMs) ? null : serverMs + offsetMs - rttMs / 2;
  }

  closed(link) {
    if (link !== this.link) {
      return;
    }
    clearInterval(this.pinging);
    this.link = null;
    if (this.wanted && this.fallsBack && link.cannotOpen) {
      this.rtcFailed = true;
      this.tell("fallback", {});
      return;
    }
    const isFinal = !this.wanted || FINAL.has(this.ending?.name);
    this.tell(isFinal ? "ended" : "broken", this.ending ?? {});
  }

  /** End the conversation. */
  close() {
    this.wanted = false;
    if (this.link) {
      this.send({ type: "stop" });
      const { link } = this;
      setTimeout(() => link.close(), 500);
      clearInterval(this.pinging);
      this.link = null;
    }
  }

  tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

function packed(kind, timeMs, bytes) {
  const payload = ArrayBuffer.isView(bytes) ? new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength) : new Uint8Array(bytes);
  const message = new Uint8Array(HEADER_BYTES + payload.length);
  const view = new DataView(message.buffer);
  view.setUint8(0, kind);
  view.setFloat64(1, timeMs, true);
  message.set(payload, HEADER_BYTES);
  return message;
}

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
