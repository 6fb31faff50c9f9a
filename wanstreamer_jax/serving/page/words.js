// What the page says, for each state and each thing that can go wrong.

export const STATES = {
  idle: "Not connected",
  asking: "Waiting for permission",
  connecting: "Connecting",
  loading: "The agent is getting ready",
  full: "All places are taken",
  live: "Live",
  reconnecting: "Connection lost, trying again",
  ended: "Ended",
  denied: "No permission",
  failed: "Something is wrong",
};

/** What is said of a server that one is not connected to. */
export function serverState({ ready, free, doing }) {
  if (!ready) {
    return `${STATES.loading}: ${doing}`;
  }
  return free ? "Ready" : STATES.full;
}

export const NO_SERVER = "The server does not answer";

export const WELCOME = {
  idle: ["Talk to it", "It hears you, sees you and reads what you type, all the time, and answers with voice and picture. Headphones help both of you."],
  asking: ["May it hear and see you?", "Your browser asks for the microphone and the camera. What they take goes to this server and nowhere else."],
  connecting: ["Connecting", "One moment."],
  loading: ["The agent is getting ready", "The first start takes longest. This page begins by itself."],
  full: ["All places are taken", "You are next as soon as one is free. This page begins by itself."],
  reconnecting: ["The connection is lost", "Trying again. A new conversation begins when the server answers."],
  ended: ["That was it", "The conversation has ended."],
  denied: ["The browser said no", ""],
  failed: ["Something is wrong", ""],
};

/** What to do about an error of getUserMedia. */
export function deviceTrouble(error) {
  if (!window.isSecureContext) {
    return "Browsers give microphone and camera only to https pages and to this machine's own (localhost). Serve with --tls-cert and --tls-key, or forward the port: ssh -L 8765:localhost:8765 SERVER.";
  }
  switch (error.name) {
    case "NotAllowedError":
      return "Microphone and camera were refused. Allow them for this page (the symbol left of its address), then try again; or go on with the keyboard alone.";
    case "NotFoundError":
      return "There is no microphone and no camera. Plug one in and try again, or go on with the keyboard alone.";
    case "NotReadableError":
      return "Another program uses the microphone or the camera. Close it and try again, or go on with the keyboard alone.";
    default:
      return `Microphone and camera cannot be used (${error.name}). You can go on with the keyboard alone.`;
  }
}

/** What is said when the browser's own compression gives up; `way` is sent or received. */
export const plainFromHere = (way, what) => `This browser cannot go on compressing: ${what} ${what === "sound" ? "is" : "are"} ${way} plain from here.`;

export const TOKEN_NEEDED = "This server wants a token. Write it into the settings, or open the page with #token=... after its address.";
export const KEYBOARD_ONLY = "It cannot hear or see you: type to it.";
