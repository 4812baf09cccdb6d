// The event display's page: follows the rows, and handles the buttons.

import { Details } from "./details.js";
import { List } from "./list.js";

const POLL_MS = 300;
const told = document.getElementById("told");
let wasLost = false;

const list = new List((row) => open(row.id, row.number, true));
const details = new Details({
  closed: (number) => {
    history.replaceState(null, "", location.pathname);
    show();
    list.focus(number);
  },
  openOther: (number, id) => open(id, number, true),
  retry: (number) => ask(`/requests/${number}/retry`, "Retry", false),
});

// Opens a request and puts its id into the address, so that it can be linked to.
function open(id, number, takesFocus) {
  history.replaceState(null, "", `#${encodeURIComponent(id)}`);
  details.show(id, number);
  list.select(number);
  if (takesFocus) details.focus();
}

// Opens the request that the address names.
function show() {
  const id = linkedId();
  if (id === "") {
    details.hide();
    list.select(0);
  } else if (details.id !== id || details.number === 0) {
    const number = list.find(id)?.number ?? 0;
    details.show(id, number);
    list.select(number);
  }
}

function linkedId() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return location.hash.slice(1);
  }
}

// Asks for the rows that have changed, again and again.
async function follow(after) {
  let pause = POLL_MS;
  try {
    const answer = await fetch(`/rows?after=${after}`);
    const news = await answer.json();
    if (news.is_new) {
      list.reset(news.limit);
      details.number = 0;
    }
    if (news.rows.length) list.take(news.rows);
    if (!news.connected) tellLink("The Broker does not answer; trying again", "lost");
    else if (news.missed) tellLink(`Live; ${news.missed} of the Broker's facts were missed`, "live");
    else tellLink("Live", "live");
    if (details.number === 0) show();
    else if (wasLost || news.rows.some((row) => row.number === details.number)) details.refresh();
    wasLost = false;
    after = news.after;
    if (news.has_more) pause = 0;
  } catch {
    wasLost = true;
    tellLink("Connection lost; trying again", "lost");
  }
  setTimeout(follow, pause, after);
}

function tellLink(text, state) {
  const link = document.getElementById("link");
  if (link.textContent !== text) link.textContent = text;
  link.dataset.link = state;
}

// Posts to the display and reports the outcome.
async function ask(path, what, opens) {
  told.textContent = `${what}: sent…`;
  try {
    const answer = await fetch(path, { method: "POST" });
    const sent = await answer.json();
    const took = sent.duration_ms === undefined ? "" : ` in ${Math.round(sent.duration_ms)} ms`;
    const isDirect = answer.ok && !sent.id && !sent.detail;
    told.textContent = [
      `${what}: ${sent.status}${took}`,
      sent.detail,
      isDirect && "the target's answer came straight back, past the Broker, so it is not in the list",
    ].filter(Boolean).join(" – ");
    if (opens && sent.id) open(sent.id, list.find(sent.id)?.number ?? 0, false);
  } catch {
    told.textContent = `${what}: the display does not answer`;
  }
}

for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", () => {
    ask(`/examples/${button.dataset.example}`, button.querySelector("b").textContent, true);
  });
}
addEventListener("hashchange", show);
show();
follow("");
