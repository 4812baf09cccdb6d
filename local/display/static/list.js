// The list of requests: the filters, and the rows of one page.
//
// The document changes at most once a frame, and never holds more rows than one page has. Whatever
// comes from an event goes in as text.

import { element } from "./details.js";

const ROWS_A_PAGE = 100;
const STATES = ["accepted", "retrying", "completed", "failed", "dead", "delivered"];

export class List {
  // Calls `open` with the row that the user chooses.
  constructor(open) {
    this.open = open;
    this.byNumber = new Map();
    this.newest = null; // a Map of id to row, made when asked for
    this.limit = Infinity;
    this.state = "";
    this.text = "";
    this.from = Infinity; // the highest number on the page; Infinity follows the newest
    this.selected = 0;
    this.rows = new Map(); // of the document, by number
    this.isDrawing = false;
    this.body = document.getElementById("rows");
    this.makeFilters();
  }

  reset(limit) {
    this.byNumber.clear();
    this.limit = limit;
    this.draw();
  }

  take(rows) {
    for (const row of rows) this.byNumber.set(row.number, row);
    if (this.byNumber.size > this.limit) {
      const numbers = [...this.byNumber.keys()].sort((a, b) => a - b);
      for (const number of numbers.slice(0, this.byNumber.size - this.limit)) this.byNumber.delete(number);
    }
    this.draw();
  }

  // Returns the newest request of an id.
  find(id) {
    let found = null;
    for (const row of this.byNumber.values()) {
      if (row.id === id && (found === null || row.number > found.number)) found = row;
    }
    return found;
  }

  select(number) {
    this.selected = number;
    this.draw();
  }

  focus(number) {
    const shown = this.rows.get(number);
    (shown ? shown.button : document.getElementById("search")).focus();
  }

  makeFilters() {
    const states = document.getElementById("states");
    this.filters = new Map(["", ...STATES].map((state) => {
      const button = element("button", `${state || "all"} `);
      button.type = "button";
      button.dataset.state = state;
      button.append(element("b"));
      button.addEventListener("click", () => this.filter({ state }));
      states.append(button);
      return [state, button];
    }));
    const search = document.getElementById("search");
    search.addEventListener("input", () => this.filter({ text: search.value }));
    document.getElementById("all").addEventListener("click", () => {
      search.value = "";
      this.filter({ state: "", text: "" });
      search.focus();
    });
    document.getElementById("newest").addEventListener("click", () => this.turn(Infinity));
    document.getElementById("older").addEventListener("click", () => this.turn(this.next));
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row && !getSelection().toString()) this.open(this.byNumber.get(Number(row.dataset.number)));
    });
  }

  filter(change) {
    Object.assign(this, change);
    this.turn(Infinity);
  }

  turn(from) {
    this.from = from;
    this.draw();
  }

  draw() {
    if (this.isDrawing) return;
    this.isDrawing = true;
    requestAnimationFrame(() => {
      this.isDrawing = false;
      this.drawNow();
    });
  }

  drawNow() {
    const counts = new Map([["", 0], ...STATES.map((state) => [state, 0])]);
    const text = this.text.trim().toLowerCase();
    const matching = [];
    for (const row of this.byNumber.values()) {
      if (text && !`${row.id} ${row.target} ${row.type}`.toLowerCase().includes(text)) continue;
      counts.set("", counts.get("") + 1);
      counts.set(row.state, counts.get(row.state) + 1);
      if (!this.state || row.state === this.state) matching.push(row);
    }
    matching.sort((a, b) => b.number - a.number);
    const first = matching.findIndex((row) => row.number <= this.from);
    const start = first < 0 ? 0 : first;
    const page = matching.slice(start, start + ROWS_A_PAGE);
    this.next = matching[start + ROWS_A_PAGE]?.number;
    this.drawFilters(counts);
    this.drawRows(page);
    this.drawPages(start, page.length, matching.length);
  }

  drawFilters(counts) {
    for (const [state, button] of this.filters) {
      button.setAttribute("aria-pressed", String(state === this.state));
      setText(button.lastChild, String(counts.get(state)));
    }
  }

  drawRows(page) {
    const wanted = new Set(page.map((row) => row.number));
    for (const [number, shown] of this.rows) {
      if (wanted.has(number)) continue;
      shown.element.remove();
      this.rows.delete(number);
    }
    let place = this.body.firstChild;
    for (const row of page) {
      let shown = this.rows.get(row.number);
      if (!shown) {
        shown = makeRow(row);
        this.rows.set(row.number, shown);
      }
      if (shown.element === place) place = place.nextSibling;
      else this.body.insertBefore(shown.element, place);
      drawRow(shown, row, row.number === this.selected);
    }
  }

  drawPages(start, shown, matching) {
    const isEmpty = this.byNumber.size === 0;
    document.querySelector("table").hidden = shown === 0;
    document.getElementById("empty").hidden = !isEmpty;
    document.getElementById("none").hidden = isEmpty || shown > 0;
    document.getElementById("pages").hidden = matching <= ROWS_A_PAGE;
    document.getElementById("newest").disabled = start === 0 && this.from === Infinity;
    document.getElementById("older").disabled = this.next === undefined;
    setText(document.getElementById("place"), `${start + 1}–${start + shown} of ${matching}`);
  }
}

function makeRow(row) {
  const line = element("tr");
  line.setAttribute("role", "row");
  line.dataset.number = row.number;
  const cells = {};
  for (const name of ["time", "id", "target", "state", "attempts", "status"]) {
    cells[name] = element("td", "", name);
    cells[name].setAttribute("role", "cell");
  }
  line.append(...Object.values(cells));
  const at = new Date(row.at * 1000);
  const time = element("time", at.toLocaleTimeString([], { hour12: false }));
  time.dateTime = at.toISOString();
  time.title = at.toLocaleString();
  cells.time.append(time);
  const button = element("button");
  button.type = "button";
  cells.id.append(button);
  return { element: line, cells, button };
}

function drawRow({ element, cells, button }, row, isSelected) {
  setText(button, row.id);
  setText(cells.target, row.target || row.type);
  setText(cells.state, row.state);
  setText(cells.attempts, String(row.attempts || "–"));
  setText(cells.status, row.status || "–");
  cells.state.dataset.state = row.state;
  element.classList.toggle("selected", isSelected);
  button.setAttribute("aria-expanded", String(isSelected));
  button.setAttribute("aria-controls", "details");
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
