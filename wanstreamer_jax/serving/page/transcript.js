// What was said and typed, as it happens.

const PAUSE_MS = 2500;  // after such a silence the agent begins a new paragraph
const NEAR_PX = 60;  // so near to the end, the list follows

export class Transcript {
  constructor(list) {
    this.list = list;
    this.open = null;  // the agent's paragraph
    this.lastMs = 0;
  }

  agent(text) {
    const nowMs = performance.now();
    if (!this.open || nowMs - this.lastMs > PAUSE_MS) {
      this.open = this.add("agent", "", "Agent: ");
      text = text.trimStart();
    }
    this.lastMs = nowMs;
    this.open.append(text);
    this.follow();
  }

  user(text) {
    this.open = null;
    this.add("user", text, "You: ");
  }

  event(text) {
    this.open = null;
    this.add("event", text, "");
  }

  add(who, text, spoken) {
    const item = document.createElement("li");
    item.className = who;
    if (spoken) {
      const label = document.createElement("span");
      label.className = "hidden";
      label.textContent = spoken;
      item.append(label);
    }
    item.append(text);
    this.list.append(item);
    this.follow(true);
    return item;
  }

  /** Keep the end in sight, unless the user has scrolled back. */
  follow(always = false) {
    const { list } = this;
    if (always || list.scrollHeight - list.scrollTop - list.clientHeight < NEAR_PX) {
      list.scrollTop = list.scrollHeight;
    }
  }
}
