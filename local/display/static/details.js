// One open request: what is known of it, its attempts to scale, and its timeline.

import { $, button, copy, duration, element, get } from "./dom.js";

export class Details {
  // Each is called with the number of a request: `close` when the user closes it, `openOther`, with
  // the id too, to open another one, and what the buttons are for.
  constructor({ close, openOther, retry, edit, curl }) {
    this.number = 0;
    this.id = null;
    this.entries = [];
    this.isAsking = false;
    this.isStale = false;
    this.openOther = openOther;
    $("close").addEventListener("click", () => close());
    $("retry").addEventListener("click", () => retry(this.number));
    $("edit").addEventListener("click", () => edit(this.number));
    $("curl").addEventListener("click", () => curl(this.number));
    $("copy-id").addEventListener("click", () => copy(this.id, "The id"));
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.id !== null) close();
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
    $("details").scrollTop = 0;
    for (const id of ["timeline", "facts", "tries"]) $(id).replaceChildren();
    for (const id of ["retry", "edit", "curl", "tries-title"]) $(id).hidden = true;
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
        const request = await get(`/requests/${number}`);
        if (number === this.number) this.draw(request);
      } catch {
        // The connection is lost; the page calls again once it is back.
      }
    }
    this.isAsking = false;
  }

  draw(request) {
    if (request.number !== this.number) return;
    const isDirect = request.route !== "/async" || request.state === "refused";
    $("facts").replaceChildren(
      ...fact("State", request.state, { state: request.state }),
      ...fact("Call", `${request.method} ${request.path}`.trim() || "–"),
      ...fact("Target", request.target || "–"),
      ...fact("Attempts", request.attempts || "–"),
      ...fact("Status", request.status || "–"),
      ...(isDirect ? fact("Sent to", request.type) : [...fact("Type", request.type), ...fact("Source", request.source)]),
    );
    $("retry").hidden = request.state !== "dead";
    $("edit").hidden = $("curl").hidden = !request.target && !isDirect;
    this.drawTries(request.tries);
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

  // A line for each attempt: where it stands in the whole time, and in words.
  drawTries(tries) {
    $("tries-title").hidden = tries.length === 0;
    const begin = Math.min(...tries.map((each) => each.started_at));
    const end = Math.max(begin + 0.001, ...tries.map((each) => each.due_at ?? each.ended_at));
    $("tries").replaceChildren(...tries.map((each, i) => {
      const item = element("li", "", each.tone);
      const bar = element("span", "", "bar");
      const part = (name, from, to) => {
        const made = element("span", "", name);
        made.style.left = `${100 * (from - begin) / (end - begin)}%`;
        made.style.width = `${100 * (to - from) / (end - begin)}%`;
        bar.append(made);
      };
      const next = tries[i + 1];
      const waited = each.due_at && (next ? Math.min(next.started_at, each.due_at) : each.due_at);
      if (waited) part("wait", each.ended_at, waited);
      part("run", each.started_at, each.ended_at);
      const words = [`+${duration(each.started_at - begin)}`, `took ${duration(each.ended_at - each.started_at)}`];
      if (each.due_at) words.push(`then waits ${duration(each.due_at - each.ended_at)}`);
      if (each.reason && each.reason !== `the target answered ${each.outcome}`) words.push(each.reason);
      item.append(element("b", each.outcome), bar, element("span", words.join(" · "), "words"));
      return item;
    }));
  }

  makeEntry(entry, start) {
    const item = element("li", "", entry.tone);
    const title = element("p", entry.title, "title");
    if (entry.other !== null) {
      const [number, id] = entry.other;
      title.append(" ", button(id, () => this.openOther(number, id)));
    }
    item.append(title);
    const details = [...entry.details];
    if (entry.due_at !== null) {
      details.push(`next attempt after ${duration(entry.due_at - entry.at)}, at ${clock(entry.due_at)}`);
    }
    if (details.length) item.append(element("p", details.join(" · ")));
    if (entry.at) item.append(element("p", when(entry.at, start), "when"));
    if (entry.content !== null) item.append(this.makeContent(entry.content));
    return item;
  }

  // What was sent or answered, fetched when it is opened; its secrets when they are asked for.
  makeContent(content) {
    const path = `/requests/${this.number}/contents/${content}`;
    const more = element("details");
    const text = element("pre");
    text.tabIndex = 0;
    const read = async (query) => {
      try {
        const shown = await get(`${path}${query}`);
        text.textContent = shown.text;
        secrets.hidden = !shown.has_secrets || query !== "";
      } catch (error) {
        text.textContent = `It cannot be read: ${error.message}`;
      }
    };
    const secrets = button("Show secrets", async () => {
      await read("?secrets=1");
      text.focus();
    });
    secrets.hidden = true;
    more.addEventListener("toggle", () => more.open && !text.textContent && read(""));
    more.append(element("summary", "Content"), secrets, text);
    return more;
  }
}

function fact(name, value, data = {}) {
  const definition = element("dd", String(value));
  Object.assign(definition.dataset, data);
  return [element("dt", name), definition];
}

function when(at, start) {
  return at > start ? `${clock(at)}  +${duration(at - start)}` : clock(at);
}

function clock(at) {
  const time = new Date(at * 1000);
  return `${time.toLocaleTimeString([], { hour12: false })}.${String(time.getMilliseconds()).padStart(3, "0")}`;
}
