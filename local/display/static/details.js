// One open request: what is known of it, and its timeline.

const $ = (id) => document.getElementById(id);

export class Details {
  // Each is called with the number of a request: `closed` when the user closes it, `openOther`, with
  // the id too, to open another one, `retry` to send a dead one again.
  constructor({ closed, openOther, retry }) {
    this.number = 0;
    this.id = null;
    this.entries = [];
    this.isAsking = false;
    this.isStale = false;
    this.openOther = openOther;
    $("close").addEventListener("click", () => closed(this.number));
    $("retry").addEventListener("click", () => retry(this.number));
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.id !== null) closed(this.number);
    });
  }

  // Shows a request, or that its id is unknown when the number is 0.
  show(id, number = 0) {
    const isOther = number !== this.number || id !== this.id;
    this.id = id;
    this.number = number;
    $("details").hidden = false;
    document.body.classList.add("opened");
    $("details-title").textContent = id;
    $("gone").hidden = number !== 0;
    $("known").hidden = number === 0;
    if (isOther) this.clear();
    if (number) this.refresh();
  }

  hide() {
    this.id = null;
    this.number = 0;
    $("details").hidden = true;
    document.body.classList.remove("opened");
    this.clear();
  }

  focus() {
    $("details-title").focus();
  }

  clear() {
    this.entries = [];
    $("timeline").replaceChildren();
    $("facts").replaceChildren();
    $("retry-line").hidden = true;
  }

  // Fetches the request again; all calls made meanwhile become one more fetch.
  async refresh() {
    this.isStale = true;
    if (this.isAsking) return;
    this.isAsking = true;
    while (this.isStale && this.number) {
      this.isStale = false;
      const number = this.number;
      try {
        const answer = await fetch(`/requests/${number}`);
        if (answer.ok && number === this.number) this.draw(await answer.json());
      } catch {
        // The connection is lost; the page calls again once it is back.
      }
    }
    this.isAsking = false;
  }

  draw(request) {
    if (request.number !== this.number) return;
    $("facts").replaceChildren(
      ...fact("State", request.state, { state: request.state }),
      ...fact("Target", request.target || "–"),
      ...fact("Attempts", request.attempts || "–"),
      ...fact("Last status", request.status || "–"),
      ...fact("Type", request.type),
      ...fact("Source", request.source),
    );
    $("retry-line").hidden = request.state !== "dead";
    const { entries } = request;
    const start = entries.find((entry) => entry.at)?.at;
    // Entries that are the same stay, and with them what the user has opened or focused.
    let same = 0;
    while (same < this.entries.length && this.entries[same] === JSON.stringify(entries[same])) same += 1;
    const list = $("timeline");
    while (list.children.length > same) list.lastChild.remove();
    for (const entry of entries.slice(same)) list.append(this.makeEntry(entry, start));
    this.entries = entries.map((entry) => JSON.stringify(entry));
  }

  makeEntry(entry, start) {
    const item = element("li", "", entry.tone);
    const title = element("p", entry.title, "title");
    if (entry.other !== null) {
      const [number, id] = entry.other;
      const link = element("button", id);
      link.type = "button";
      link.addEventListener("click", () => this.openOther(number, id));
      title.append(" ", link);
    }
    item.append(title);
    const details = [...entry.details];
    if (entry.due_at !== null) {
      details.push(`next attempt after ${seconds(entry.due_at - entry.at)}, at ${clock(entry.due_at)}`);
    }
    if (details.length) item.append(element("p", details.join(" · ")));
    if (entry.at) item.append(element("p", when(entry.at, start), "when"));
    if (entry.event) {
      const more = element("details");
      const text = element("pre", entry.event);
      text.tabIndex = 0;
      more.append(element("summary", "Event"), text);
      item.append(more);
    }
    return item;
  }
}

function fact(name, value, data = {}) {
  const definition = element("dd", String(value));
  Object.assign(definition.dataset, data);
  return [element("dt", name), definition];
}

export function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function when(at, start) {
  return at > start ? `${clock(at)}  +${seconds(at - start)}` : clock(at);
}

function clock(at) {
  const time = new Date(at * 1000);
  return `${time.toLocaleTimeString([], { hour12: false })}.${String(time.getMilliseconds()).padStart(3, "0")}`;
}

function seconds(time) {
  return `${Math.max(0, time).toFixed(time < 10 ? 3 : 1).replace(/\.?0+$/, "")} s`;
}
