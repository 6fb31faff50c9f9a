// Messages over a WebSocket.

export class SocketLink {
  /** Hooks: `onopen()`, `onmessage(data)`, `onclose()`. */
  constructor({ token }) {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const protocols = ["wan-streamer.v1", ...(token ? [`token.${token}`] : [])];
    this.socket = new WebSocket(`${scheme}//${location.host}/v1/ws`, protocols);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.onopen();
    this.socket.onmessage = ({ data }) => this.onmessage(data);
    this.socket.onclose = () => this.onclose();
  }

  get isOpen() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  get waitingBytes() {
    return this.socket.bufferedAmount;
  }

  send(data) {
    this.socket.send(data);
  }

  /** Close; `onclose` is called when that is done, or at once when the other side is not there. */
  close({ atOnce = false } = {}) {
    this.socket.close();
    if (atOnce) {
      this.onclose();
    }
  }
}
