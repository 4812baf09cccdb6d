// The composer: a request in fields and in JSON. The JSON is what is sent; each field edits its part.

import { $, button, copy, element, get, tell } from "./dom.js";

const METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
const ROUTES = ["POST /async", "POST /event", ...METHODS.slice(0, 5).map((method) => `${method} /sync`)];

// Of a field of the envelope: its text in the form, and back. What is undefined is left out.
const isText = (value) => typeof value === "string";
const show = (value) => (value === undefined ? "" : isText(value) ? value : JSON.stringify(value, null, 2));
const TEXT = [show, (text) => text || undefined];
const JSON_OR_TEXT = [show, (text) => (text ? parse(text) ?? text : undefined)];
const FIELDS = {
  targetURL: TEXT,
  targetAPI: TEXT,
  method: TEXT,
  timeout: JSON_OR_TEXT,
  body: JSON_OR_TEXT,
  headers: [
    (value) => Object.entries(value ?? {}).map(([name, text]) => `${name}: ${show(text)}`).join("\n"),
    (text) => {
      const lines = text.split("\n").filter((line) => line.trim());
      return lines.length ? Object.fromEntries(lines.map((line) => line.split(/:(.*)/s, 2).map((part) => part.trim()))) : undefined;
    },
  ],
  callback: [
    (value) => show(value?.url),
    (text, before) => (text ? { ...before, url: text } : undefined),
  ],
};

export class Composer {
  // Calls `sent` with the id of a request that was sent.
  constructor(sent) {
    this.sent = sent;
    this.guide = null;
    $("route").append(...ROUTES.map((route) => new Option(route)));
    this.fields = [...document.querySelectorAll("[data-field]")];
    this.fields.find((field) => field.dataset.field === "method").append(...METHODS.map((method) => new Option(method)));
    for (const field of this.fields) field.addEventListener("input", () => this.edit(field));
    $("raw").addEventListener("input", () => this.drawFields());
    $("compose-curl").addEventListener("click", () => copy(this.curl(this.call()), "The curl command"));
    $("compose-close").addEventListener("click", () => {
      $("composer").hidden = true;
      $("examples").lastChild.focus();
    });
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
  }

  async load() {
    this.guide = await get("/guide");
    document.querySelector(".send").hidden = !this.guide.send;
    const made = this.guide.examples.map((example) => {
      const one = button(`${example.method} ${example.path} `, () => this.open(example));
      one.append(element("span", example.about));
      return one;
    });
    $("examples").replaceChildren(...made, button("Empty request", () => this.open({ method: "POST", path: "/async", body: "{}" })));
    const first = this.guide.examples[0];
    if (first) $("first").textContent = this.curl(first);
  }

  // Opens the form with a call: its `method`, its `path` and its `body`.
  open({ method, path, body }) {
    $("route").value = `${method} ${path}`;
    $("key").value = $("prefer").value = "";
    const envelope = JSON.rawJSON && parse(body);
    $("raw").value = envelope ? JSON.stringify(envelope, null, 2) : body;
    this.drawFields();
    $("composer").hidden = false;
    document.querySelector("#composer .main").focus();
    $("composer").scrollIntoView({ block: "nearest" });
  }

  call() {
    const [method, path] = $("route").value.split(" ");
    const headers = { "Content-Type": "application/json" };
    if ($("key").value) headers["Idempotency-Key"] = $("key").value;
    if ($("prefer").value) headers.Prefer = $("prefer").value;
    return { method, path, headers, body: $("raw").value };
  }

  edit(field) {
    const envelope = parse($("raw").value) ?? {};
    const name = field.dataset.field;
    const value = FIELDS[name][1](field.value, envelope[name]);
    if (value === undefined) delete envelope[name];
    else envelope[name] = value;
    $("raw").value = JSON.stringify(envelope, null, 2);
  }

  drawFields() {
    const envelope = parse($("raw").value);
    const isObject = envelope !== null && typeof envelope === "object" && !Array.isArray(envelope);
    $("fields").disabled = !isObject;
    $("raw-problem").textContent = isObject ? "" : "This is no JSON object; it is sent as it is.";
    for (const field of this.fields) field.value = isObject ? FIELDS[field.dataset.field][0](envelope[field.dataset.field]) : "";
  }

  async send() {
    const call = this.call();
    const sent = await post("/send", `${call.method} ${call.path}`, call);
    if (sent?.id) this.sent(sent.id);
  }

  // A line for a shell, with the port that is really used.
  curl({ method, path, headers = { "Content-Type": "application/json" }, body }) {
    const parts = [`curl -X ${method} ${this.guide.send}${path}`];
    for (const [name, value] of Object.entries(headers)) parts.push(`-H ${quoted(`${name}: ${value}`)}`);
    if (this.guide.needs_token) parts.push('-H "Authorization: Bearer $API_TOKEN"');
    return [...parts, `--data-raw ${quoted(body)}`].join(" \\\n  ");
  }
}

// Posts to the display, tells of the outcome, and returns it.
export async function post(path, what, body) {
  tell(`${what}: sent…`);
  try {
    const answer = await fetch(path, { method: "POST", body: body && JSON.stringify(body) });
    const sent = await answer.json();
    const took = sent.duration_ms === undefined ? "" : ` in ${Math.round(sent.duration_ms)} ms`;
    const word = sent.status < 400 ? "" : answer.ok ? "refused or failed with " : "";
    tell([`${what}: ${word}${sent.status}${took}`, sent.detail].filter(Boolean).join(" – "), sent.status < 400 ? "good" : "bad");
    return sent;
  } catch {
    tell(`${what}: not sent. The server of this page does not answer; is ./dev up still running?`, "bad");
    return null;
  }
}

// Reads JSON without changing a number, where the browser can; undefined when it is none.
function parse(text) {
  const keep = (_, value, context) =>
    typeof value === "number" && context?.source && JSON.rawJSON ? JSON.rawJSON(context.source) : value;
  try {
    return JSON.parse(text, keep);
  } catch {
    return undefined;
  }
}

function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
