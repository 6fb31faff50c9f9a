// A conversation with the server over a WebSocket, and again when it breaks off. docs/serving.md has the messages.

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

  /** Open; `world` is {persona, portrait, voice, record, forms}. Opens again by itself until `close`. */
  open(world) {
    this.world = world;
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const protocols = ["wan-streamer.v1", ...(this.token ? [`token.${this.token}`] : [])];
    const socket = new WebSocket(`${scheme}//${location.host}/v1/ws`, protocols);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.ending = null;
    socket.onopen = () => this.begin(socket);
    socket.onmessage = ({ data }) => this.take(data);
    socket.onclose = () => this.closed(socket);
  }

  begin(socket) {
    const { persona, portrait, voice, record, forms } = this.world;
    if (portrait) {
      socket.send(packed(PORTRAIT, 0, portrait));
    }
    if (voice) {
      socket.send(packed(VOICE, 0, voice));
    }
    socket.send(JSON.stringify({ type: "start", persona, record, ...forms }));
    this.pongMs = performance.now();
    this.pinging = setInterval(() => this.ping(socket), PING_EVERY_MS);
  }

  ping(socket) {
    if (performance.now() - this.pongMs > SILENT_MS) {
      socket.close();
      this.closed(socket);
      return;
    }
    this.send({ type: "ping", time_ms: performance.now() });
  }

  /** Media; pictures are left out while the network is behind. Whether it was sent. */
  media(kind, timeMs, bytes) {
    const limit = IS_SOUND.has(kind) ? 4 * MOST_WAITING_BYTES : MOST_WAITING_BYTES;
    const fits = this.socket?.readyState === WebSocket.OPEN && this.socket.bufferedAmount < limit;
    if (fits) {
      this.socket.send(packed(kind, timeMs, bytes));
    }
    return fits;
  }

  send(message) {
    if (this.socket?.readyState === WebSocket.OPEN) {
      this.socket.send(JSON.stringify(message));
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
      this.pongMs = performance.now();
      this.rttMs = this.pongMs - facts.time_ms;
    } else if (type === "goodbye") {
      this.ending = facts;
    } else {
      this.tell(type, facts);
    }
  }

  closed(socket) {
    if (socket !== this.socket) {
      return;
    }
    clearInterval(this.pinging);
    this.socket = null;
    const isFinal = !this.wanted || FINAL.has(this.ending?.name);
    this.tell(isFinal ? "ended" : "broken", this.ending ?? {});
  }

  /** End the conversation. */
  close() {
    this.wanted = false;
    if (this.socket) {
      this.send({ type: "stop" });
      const socket = this.socket;
      setTimeout(() => socket.close(), 500);
      clearInterval(this.pinging);
      this.socket = null;
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
