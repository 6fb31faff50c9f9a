// The page: what it is doing, and who tells whom.

import { Capture, openDevices } from "./capture.js";
import { Connection, pause } from "./connection.js";
import { Figures } from "./figures.js";
import { Media } from "./media.js";
import { Playback } from "./playback.js";
import { Recorder } from "./recorder.js";
import { Settings } from "./settings.js";
import { TrackPlayback } from "./track-playback.js";
import { Transcript } from "./transcript.js";
import { KEYBOARD_ONLY, NO_SERVER, STATES, TOKEN_NEEDED, WELCOME, deviceTrouble, serverState } from "./words.js";

const byId = (id) => document.getElementById(id);
const [start, stop, mic, camera, record] = ["start", "stop", "mic-button", "camera-button", "record-button"].map(byId);
const UNIT_MS = 160;
const RETRY_MS = 300;
const LOOK_EVERY_MS = 2000;

const connection = new Connection();
const transcript = new Transcript(byId("transcript"));
const recorder = new Recorder();
const settings = new Settings(changeDevice);
const shown = (timeMs, nowMs) => figures.shown(timeMs, nowMs);
const pieces = new Playback(byId("agent"), shown);
const tracks = new TrackPlayback(byId("agent"), byId("agent-video"), UNIT_MS, shown);
let playback = pieces;
const figures = new Figures(byId("figures-panel"), connection, () => playback, UNIT_MS);
const media = new Media(connection, pieces, (text) => transcript.event(text));
const capture = new Capture(byId("self"), media.sending);
let audio = null;
let config = null;
let stream = null;
let beganMs = 0;

// ---- States

function enter(state, detail = "") {
  document.body.dataset.state = state;
  byId("status-text").textContent = STATES[state];
  const [title, text] = WELCOME[state] ?? ["", ""];
  byId("welcome-title").textContent = title;
  byId("welcome-text").textContent = detail && (state === "ended" || !text) ? detail : text;
  byId("note").textContent = detail;
  byId("note").hidden = !detail || byId("welcome-text").textContent === detail;
  const resting = ["idle", "ended", "denied", "failed"].includes(state);
  start.hidden = !resting;
  start.textContent = { idle: "Start talking", ended: "Talk again" }[state] ?? "Try again";
  document.getElementById("keyboard")?.remove();
  const live = state === "live";
  stop.disabled = resting;
  for (const control of [byId("type"), byId("send-button"), record]) {
    control.disabled = !live;
  }
  mic.disabled = !live || !stream?.getAudioTracks().length;
  camera.disabled = !live || !stream?.getVideoTracks().length;
  byId("self").hidden = resting || !stream?.getVideoTracks().length || !capture.cameraOn;
  byId("time").hidden = !live;
}

/** Refused devices: say why, and offer to go on without them. */
function offerKeyboard(reason) {
  enter("denied", reason);
  const button = document.createElement("button");
  button.id = "keyboard";
  button.type = "button";
  button.textContent = "Go on without";
  button.className = "secondary";
  button.onclick = () => begin(false);
  start.after(button);
}

// ---- A conversation

async function begin(withDevices = true) {
  connection.wanted = true;
  // Within the click: some browsers let sound begin only then.
  audio ??= new AudioContext({ latencyHint: 0 });  // pictures wait for the speaker: 28 ms less than "interactive"
  audio.resume();
  if (withDevices && !(await askForDevices())) {
    return;
  }
  try {
    await meet();
  } catch (error) {
    leave();
    const refused = error.status === 401;
    settings.adapt({ needsToken: refused });
    enter("failed", refused ? TOKEN_NEEDED : error.message);
  }
}

async function askForDevices() {
  enter("asking");
  try {
    if (!navigator.mediaDevices) {
      throw new DOMException("not a secure page", "SecurityError");
    }
    stream = await openDevices(settings.chosen("audioinput"), settings.chosen("videoinput"));
    return true;
  } catch (error) {
    connection.wanted = false;
    offerKeyboard(deviceTrouble(error));
    return false;
  }
}

/** Wait for a place, and take it. */
async function meet() {
  enter("connecting");
  connection.token = settings.token;
  const found = await connection.prepare();
  if (!found) {
    return;
  }
  config = found;
  settings.adapt(config);
  const world = await settings.world(config);
  connection.choose(settings.transport, config);
  const forms = await media.begin(config, settings.forms);
  await play(connection.transport === "webrtc" ? tracks : pieces);
  figures.clear();
  connection.open({ ...world, forms }, stream, config);
}

/** Begin with what is heard and seen over this transport. */
async function play(chosen) {
  if (playback !== chosen) {
    playback.stop();
    playback = chosen;
  }
  if (!playback.node) {
    await playback.start(audio);
    setSpeaker();
  }
  playback.clear();
  if (!capture.running) {
    await capture.start(audio, stream, config);
  }
  capture.sends = connection.transport === "websocket";  // else the browser sends what it takes by itself
}

function leave() {
  recorder.stop();
  showRecording();
  connection.close();
  capture.stop();
  media.end();
  playback.stop();
  stream = null;
}

connection.addEventListener("waiting", ({ detail }) => enter(detail.state, detail.detail));
connection.addEventListener("started", ({ detail }) => {
  beganMs = performance.now();
  enter("live");
  transcript.event(stream ? "The conversation begins." : KEYBOARD_ONLY);
  if (detail.recorded) {
    transcript.event("The server keeps this conversation.");
  }
  if (!config.trained) {
    transcript.event("This agent is untrained: it says and shows noise.");
  }
  byId("type").focus({ preventScroll: true });
});
connection.addEventListener("stream", ({ detail: { media, receiver } }) => tracks.attach(media, receiver));
connection.addEventListener("sent", ({ detail }) => tracks.note(detail));
connection.addEventListener("fallback", () => meetAgain());
connection.addEventListener("unit", ({ detail }) => figures.note(detail));
connection.addEventListener("text", ({ detail }) => transcript.agent(detail.text));
connection.addEventListener("warning", ({ detail }) => transcript.event(`${detail.message.replace("is over", "is nearly over")} ${Math.round(detail.seconds_left)} s are left.`));
connection.addEventListener("error", ({ detail }) => transcript.event(detail.message));
connection.addEventListener("ended", ({ detail }) => {
  leave();
  enter("ended", detail.message ?? "");
});
connection.addEventListener("broken", async ({ detail }) => {
  transcript.event(detail.message ?? "The connection is lost.");
  enter("reconnecting", detail.message ?? "");
  await pause(RETRY_MS);
  meetAgain();
});

function meetAgain() {
  if (connection.wanted) {
    meet().catch((error) => {
      leave();
      enter("failed", error.message);
    });
  }
}

// ---- Controls

start.onclick = () => begin();
stop.onclick = () => {
  leave();
  enter("ended");
};

function toggle(button, kind, words) {
  const [track] = stream?.[kind]() ?? [];
  if (!track || button.disabled) {
    return;
  }
  track.enabled = !track.enabled;
  button.setAttribute("aria-pressed", String(!track.enabled));
  button.title = words[track.enabled ? 0 : 1];
  button.setAttribute("aria-label", words[track.enabled ? 0 : 1]);
  if (kind === "getVideoTracks") {
    capture.cameraOn = track.enabled;
    byId("self").hidden = !track.enabled;
  }
}

mic.onclick = () => toggle(mic, "getAudioTracks", ["Mute the microphone", "Unmute the microphone"]);
camera.onclick = () => toggle(camera, "getVideoTracks", ["Stop the camera", "Start the camera"]);
byId("figures-button").onclick = ({ currentTarget }) => {
  const panel = byId("figures-panel");
  panel.hidden = !panel.hidden;
  currentTarget.setAttribute("aria-pressed", String(!panel.hidden));
  figures.refresh();
};
record.onclick = () => {
  if (recorder.isRecording) {
    recorder.stop();
  } else {
    recorder.start(byId("agent"), audio, playback.node, stream);
  }
  showRecording();
};

function showRecording() {
  record.setAttribute("aria-pressed", String(recorder.isRecording));
  byId("time").classList.toggle("recording", Boolean(recorder.isRecording));
}

byId("type-form").onsubmit = (event) => {
  event.preventDefault();
  const text = byId("type").value.trim();
  if (text && !byId("type").disabled) {
    connection.send({ type: "text", text });
    transcript.user(text);
    byId("type").value = "";
  }
};

const KEYS = { m: mic, v: camera, r: record, f: byId("figures-button"), s: byId("settings-button") };
document.addEventListener("keydown", (event) => {
  const writing = event.target.matches("input, textarea, select") || settings.dialog.open;
  if (!writing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    KEYS[event.key.toLowerCase()]?.click();
  }
});

async function changeDevice(kind) {
  if (kind === "audiooutput") {
    setSpeaker();
  } else if (document.body.dataset.state === "live" && stream) {
    stream.getTracks().forEach((track) => track.stop());
    if (await askForDevices()) {
      capture.setStream(stream);
      connection.setStream(stream);
      connection.wanted = true;
      enter("live");
    }
  }
}

function setSpeaker() {
  for (const sink of [audio, tracks]) {
    sink?.setSinkId?.(settings.chosen("audiooutput")).catch((error) => transcript.event(`That speaker cannot be used (${error.name}).`));
  }
}

// ---- What moves all the time

function animate() {
  document.documentElement.style.setProperty("--level", Math.min(1, playback.level * 5).toFixed(2));
  document.documentElement.style.setProperty("--own-level", Math.min(1, capture.level * 8).toFixed(2));
  if (document.body.dataset.state === "live") {
    const seconds = Math.floor((performance.now() - beganMs) / 1000);
    byId("time").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  }
}

/** While nothing goes on, say whether the server is there. */
async function look() {
  if (document.body.dataset.state === "idle" && !document.hidden) {
    const found = await connection.look();
    if (document.body.dataset.state === "idle") {
      byId("status-text").textContent = found ? serverState(found) : NO_SERVER;
      byId("status").classList.toggle("ready", Boolean(found?.ready && found.free));
    }
  }
}

setInterval(animate, 50);
setInterval(look, LOOK_EVERY_MS);
window.addEventListener("pagehide", () => connection.close());
enter("idle");
look();
