// A conversation as a file of the user's own: the agent's picture, both voices.

const KINDS = ["video/webm;codecs=vp9,opus", "video/webm;codecs=vp8,opus", "video/webm", "video/mp4"];

export class Recorder {
  /** Begin. `agentNode` is an AudioNode; `stream` is the user's, or null. */
  start(canvas, audio, agentNode, stream) {
    this.mix = audio.createMediaStreamDestination();
    agentNode.connect(this.mix);
    if (stream?.getAudioTracks().length) {
      this.own = audio.createMediaStreamSource(stream);
      this.own.connect(this.mix);
    }
    const kind = KINDS.find((name) => MediaRecorder.isTypeSupported(name)) ?? "";
    const tracks = [...canvas.captureStream().getVideoTracks(), ...this.mix.stream.getAudioTracks()];
    this.pieces = [];
    this.recorder = new MediaRecorder(new MediaStream(tracks), { mimeType: kind });
    this.recorder.ondataavailable = ({ data }) => this.pieces.push(data);
    this.recorder.onstop = () => this.save(kind.startsWith("video/mp4") ? "mp4" : "webm");
    this.agentNode = agentNode;
    this.recorder.start(1000);
  }

  get isRecording() {
    return this.recorder?.state === "recording";
  }

  stop() {
    if (this.isRecording) {
      this.recorder.stop();
      this.agentNode.disconnect(this.mix);
      this.own?.disconnect();
      this.own = null;
    }
  }

  save(suffix) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(this.pieces, { type: this.recorder.mimeType }));
    link.download = `wan-streamer-${new Date().toISOString().slice(0, 19).replaceAll(":", "-")}.${suffix}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    this.pieces = [];
  }
}
