// The event display's page: follows the rows, and opens and closes requests.

import { drawChart } from "./chart.js";
import { Composer, post } from "./compose.js";
import { Details } from "./details.js";
import { $, copy, get, tell } from "./dom.js";
import { List } from "./list.js";

const POLL_MS = 300;
const STOPPED = "The stack has stopped: nothing answers here. Start it again with ./dev up; this page goes on by itself.";
const STUCK = "The Broker does not answer: it has stopped or is stuck. New events are not shown until it does.";
let wasLost = false;

const composer = new Composer((id) => open(id, list.find(id)?.number ?? 0, false));
const list = new List({
  open: (row, takesFocus) => open(row.id, row.number, takesFocus),
  retryAll: async (rows) => {
    let retried = 0;
    for (const row of rows) {
      const sent = await post(`/requests/${row.number}/retry`, `Retry of ${row.id}`);
      if (sent === null) return;
      retried += sent.status < 400;
    }
    tell(`Retry: ${retried} of ${rows.length} were published again`, retried === rows.length ? "good" : "bad");
  },
});
const details = new Details({
  close,
  openOther: (number, id) => open(id, number, true),
  retry: (number) => post(`/requests/${number}/retry`, "Retry"),
  edit: (number) => withCall(number, (call) => composer.open(call)),
  curl: (number) => withCall(number, (call) => copy(composer.curl(call), "The curl command")),
});

async function withCall(number, use) {
  try {
    use(await get(`/requests/${number}/call`));
  } catch (error) {
    tell(`The request cannot be read: ${error.message}`, "bad");
  }
}

// Opens a request and puts its id into the address, so that it can be linked to. Back closes it.
function open(id, number, takesFocus) {
  const address = `#${encodeURIComponent(id)}`;
  if (details.id === null) history.pushState({ opened: true }, "", address);
  else history.replaceState(history.state, "", address);
  details.show(id, number);
  list.select(number);
  if (takesFocus) details.focus();
}

function close() {
  if (history.state?.opened) {
    history.back();
  } else {
    history.replaceState(null, "", location.pathname);
    show();
  }
}

// Opens the request that the address names, or closes the one that is open.
function show() {
  const id = linkedId();
  if (id === "") {
    const { id: wasOpen, number } = details;
    details.hide();
    list.select(0);
    if (wasOpen !== null) list.focus(number);
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
    const news = await get(`/rows?after=${after}`);
    if (news.is_new) {
      await composer.load();
      list.reset(news.limit);
      details.number = 0;
    }
    list.take(news.rows);
    if (!news.connected) tellLink(STUCK, "lost");
    else if (news.missed) tellLink(`Live; ${news.missed} of the Broker's facts were missed`, "live");
    else tellLink("Live", "live");
    if (details.number === 0) show();
    else if (wasLost || news.rows.some((row) => row.number === details.number)) details.refresh();
    wasLost = false;
    after = news.after;
    if (news.has_more) pause = 0;
  } catch {
    wasLost = true;
    tellLink(STOPPED, "lost");
  }
  drawChart(list.byNumber.values());
  setTimeout(follow, pause, after);
}

function tellLink(text, state) {
  if ($("link").textContent !== text) $("link").textContent = text;
  $("link").dataset.link = state;
}

$("app").hidden = false;
tellLink("Connecting…", "");
addEventListener("popstate", show);
show();
follow("");
