// Messages over a data channel, and media as tracks: WebRTC.

const CONNECT_WITHIN_MS = 4000;
const GATHER_WITHIN_MS = 1000;
const PART = 16, PART_BYTES = 60_000;  // of a message that is too long for a data channel
const HEADER_BYTES = 9;
const MOST_BITS_PER_S = 800_000;  // of a picture as small as the agent's eyes see it

export class RtcLink {
  /** Hooks: `onopen()`, `onmessage(data)`, `onclose()`, `onmedia(stream, receiver of its sound)`. */
  constructor({ token, stream, config }) {
    this.token = token;
    this.hasOpened = this.hasClosed = this.isRefused = false;
    this.peer = new RTCPeerConnection({ iceServers: [] });
    this.peer.onconnectionstatechange = () => this.peer.connectionState === "failed" && this.close();
    this.channel = this.peer.createDataChannel("wan-streamer.v1");
    this.channel.binaryType = "arraybuffer";
    this.channel.onopen = () => this.opened();
    this.channel.onmessage = ({ data }) => this.onmessage(data);
    this.channel.onclose = () => this.close();
    this.audio = this.add("audio", stream?.getAudioTracks()[0]);
    this.video = this.add("video", stream?.getVideoTracks()[0], [encoding(stream, config)]);
    this.timer = setTimeout(() => this.close(), CONNECT_WITHIN_MS);
    this.meet().catch(() => this.close());
  }

  add(kind, track, sendEncodings) {
    return this.peer.addTransceiver(track ?? kind, { direction: track ? "sendrecv" : "recvonly", sendEncodings });
  }

  async meet() {
    await this.peer.setLocalDescription();
    await gathered(this.peer);
    const headers = { "Content-Type": "application/sdp", ...(this.token && { Authorization: `Bearer ${this.token}` }) };
    const response = await fetch("/v1/rtc", { method: "POST", headers, body: this.peer.localDescription.sdp });
    if (!response.ok) {
      this.isRefused = response.status === 503;
      throw new Error(await response.text());
    }
    this.session = response.headers.get("Location");
    if (this.hasClosed) {
      this.giveBack();
      return;
    }
    await this.peer.setRemoteDescription({ type: "answer", sdp: await response.text() });
    const tracks = [this.audio, this.video].map(({ receiver }) => receiver.track);
    this.onmedia(new MediaStream(tracks), this.audio.receiver);
  }

  opened() {
    clearTimeout(this.timer);
    this.hasOpened = true;
    this.onopen();
  }

  /** Whether there is no way through here, whoever tries again. */
  get cannotOpen() {
    return !this.hasOpened && !this.isRefused;
  }

  get isOpen() {
    return this.channel.readyState === "open";
  }

  get waitingBytes() {
    return this.channel.bufferedAmount;
  }

  send(data) {
    if (typeof data === "string" || data.length <= PART_BYTES) {
      this.channel.send(data);
      return;
    }
    for (let at = 0; at < data.length; at += PART_BYTES) {
      this.channel.send(part(data.subarray(at, at + PART_BYTES), data.length));
    }
  }

  /** Take another microphone or camera. */
  setStream(stream) {
    this.audio.sender.replaceTrack(stream.getAudioTracks()[0] ?? null);
    this.video.sender.replaceTrack(stream.getVideoTracks()[0] ?? null);
  }

  /** Close; the server notices at once when there was a connection, and is told when there was none. */
  close() {
    if (this.hasClosed) {
      return;
    }
    this.hasClosed = true;
    clearTimeout(this.timer);
    this.peer.close();
    if (!this.hasOpened) {
      this.giveBack();
    }
    this.onclose();
  }

  giveBack() {
    if (this.session) {
      const headers = this.token ? { Authorization: `Bearer ${this.token}` } : {};
      fetch(this.session, { method: "DELETE", headers, keepalive: true }).catch(() => {});
    }
  }
}

/** How the camera is to be sent: no larger than the agent's eyes see it. */
function encoding(stream, config) {
  const { width = 0, height = 0 } = stream?.getVideoTracks()[0]?.getSettings() ?? {};
  const [mostWidth, mostHeight] = config.user_picture;
  const scale = Math.max(1, Math.min(width / mostWidth, height / mostHeight));
  return { scaleResolutionDownBy: scale, maxBitrate: MOST_BITS_PER_S, maxFramerate: config.video_fps };
}

/** All addresses are known, or those that come later do without. */
function gathered(peer) {
  return new Promise((resolve) => {
    const look = () => peer.iceGatheringState === "complete" && resolve();
    peer.onicegatheringstatechange = look;
    setTimeout(resolve, GATHER_WITHIN_MS);
    look();
  });
}

function part(bytes, length) {
  const message = new Uint8Array(HEADER_BYTES + bytes.length);
  const view = new DataView(message.buffer);
  view.setUint8(0, PART);
  view.setFloat64(1, length, true);
  message.set(bytes, HEADER_BYTES);
  return message;
}
