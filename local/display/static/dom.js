// What the other scripts share.

export const $ = (id) => document.getElementById(id);

export function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

export function button(text, action) {
  const made = element("button", text);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Says what has come of what the user did; `tone` is good or bad.
export function tell(text, tone = "") {
  $("told").textContent = text;
  $("told").dataset.tone = tone;
}

export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    tell(`${what} is on the clipboard`);
  } catch {
    tell(`The browser does not let this page copy. Here it is: ${text}`);
  }
}

// Fetches JSON of the display; an answer that is no success throws its detail.
export async function get(path) {
  const answer = await fetch(path);
  const document = await answer.json();
  if (!answer.ok) throw new Error(document.detail);
  return document;
}

export function duration(seconds) {
  if (seconds < 1) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  return `${seconds.toFixed(seconds < 10 ? 2 : 1).replace(/\.?0+$/, "")} s`;
}
