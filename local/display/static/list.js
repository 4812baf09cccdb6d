// The list of requests: the filters, and the rows of one page.
//
// The document changes at most once a frame, and never holds more rows than one page has. Whatever
// comes from an event goes in as text.

import { $, button, element, get, setText } from "./dom.js";

const ROWS_A_PAGE = 100;
const STATES = ["accepted", "retrying", "completed", "failed", "refused", "dead", "delivered"];
const CELLS = ["time", "call", "target", "id", "state", "attempts", "status"];
const STEPS = { ArrowDown: 1, ArrowUp: -1 };

export class List {
  // Calls `open` with the row that the user chooses and whether it takes the focus, and `retryAll`
  // with the dead rows that match.
  constructor({ open, retryAll }) {
    this.open = open;
    this.byNumber = new Map();
    this.limit = Infinity;
    this.filters = { state: "", status: "", since: "", text: "" };
    this.found = new Set(); // numbers of the requests in whose bodies the text stands
    this.dead = [];
    this.from = Infinity; // the highest number on the page; Infinity follows the newest
    this.selected = 0;
    this.rows = new Map(); // of the document, by number
    this.isDrawing = this.isSearching = false;
    this.body = $("rows");
    this.makeFilters();
    $("retry-all").addEventListener("click", async () => {
      $("retry-all").disabled = true;
      await retryAll(this.dead);
      $("retry-all").disabled = false;
    });
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
    if (rows.length) this.searchBodies();
    if (rows.length || this.filters.since) this.draw();
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
    (this.rows.get(number)?.button ?? $("search")).focus();
  }

  makeFilters() {
    this.states = new Map(["", ...STATES].map((state) => {
      const made = button(`${state || "all"} `, () => this.filter({ state }));
      made.dataset.state = state;
      made.append(element("b"));
      $("states").append(made);
      return [state, made];
    }));
    this.statuses = new Set();
    $("status").append(...["2", "3", "4", "5"].map((digit) => new Option(`${digit}xx`, digit)));
    for (const name of ["status", "since"]) {
      $(name).addEventListener("change", () => this.filter({ [name]: $(name).value }));
    }
    $("search").addEventListener("input", () => {
      this.found.clear();
      this.filter({ text: $("search").value.trim() });
      this.searchBodies();
    });
    $("all").addEventListener("click", () => {
      $("search").value = $("status").value = $("since").value = "";
      this.filter({ state: "", status: "", since: "", text: "" });
      $("search").focus();
    });
    $("newest").addEventListener("click", () => this.turn(Infinity));
    $("older").addEventListener("click", () => this.turn(this.next));
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row && !getSelection().toString()) this.open(this.byNumber.get(Number(row.dataset.number)), true);
    });
    document.querySelector(".list").addEventListener("keydown", (event) => this.walk(event));
  }

  // The arrows go from row to row, and take an open request along.
  walk(event) {
    const step = STEPS[event.key];
    const row = event.target.closest("tbody tr");
    if (!step || !(row || (event.target === $("search") && step === 1))) return;
    const next = row ? (step === 1 ? row.nextSibling : row.previousSibling) : this.body.firstChild;
    event.preventDefault();
    if (!next) return;
    const number = Number(next.dataset.number);
    if (this.selected) this.open(this.byNumber.get(number), false);
    this.focus(number);
  }

  // Asks the display which bodies have the text; the page has none of them.
  async searchBodies() {
    const { text } = this.filters;
    if (this.isSearching || text.length < 2) return;
    this.isSearching = true;
    try {
      this.found = new Set((await get(`/search?text=${encodeURIComponent(text)}`)).numbers);
      this.draw();
    } catch {
      // The connection is lost; the page says so.
    }
    this.isSearching = false;
    if (text !== this.filters.text) this.searchBodies();
  }

  filter(change) {
    Object.assign(this.filters, change);
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
    const { state, status, since, text } = this.filters;
    const counts = new Map([["", 0], ...STATES.map((each) => [each, 0])]);
    const lower = text.toLowerCase();
    const oldest = since ? Date.now() / 1000 - Number(since) : 0;
    const matching = [];
    for (const row of this.byNumber.values()) {
      if (!this.statuses.has(row.status)) this.offer(row.status);
      if (row.at < oldest || !row.status.startsWith(status)) continue;
      if (text && !this.found.has(row.number) && !`${row.id} ${row.target}${row.path} ${row.type}`.toLowerCase().includes(lower)) continue;
      counts.set("", counts.get("") + 1);
      counts.set(row.state, counts.get(row.state) + 1);
      if (!state || row.state === state) matching.push(row);
    }
    matching.sort((a, b) => b.number - a.number);
    const first = matching.findIndex((row) => row.number <= this.from);
    const start = first < 0 ? 0 : first;
    const page = matching.slice(start, start + ROWS_A_PAGE);
    this.next = matching[start + ROWS_A_PAGE]?.number;
    this.dead = matching.filter((row) => row.state === "dead");
    $("retry-all").hidden = this.dead.length === 0;
    setText($("retry-all"), `Retry ${this.dead.length} dead`);
    this.drawFilters(counts);
    this.drawRows(page);
    this.drawPages(start, page.length, matching.length);
  }

  offer(status) {
    this.statuses.add(status);
    if (status) $("status").append(new Option(status, status));
  }

  drawFilters(counts) {
    for (const [state, made] of this.states) {
      made.setAttribute("aria-pressed", String(state === this.filters.state));
      setText(made.lastChild, String(counts.get(state)));
      made.hidden = state !== "" && state !== this.filters.state && counts.get(state) === 0;
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
    $("empty").hidden = !isEmpty;
    $("none").hidden = isEmpty || shown > 0;
    $("pages").hidden = matching <= ROWS_A_PAGE;
    $("newest").disabled = start === 0 && this.from === Infinity;
    $("older").disabled = this.next === undefined;
    setText($("place"), `${start + 1}–${start + shown} of ${matching}`);
  }
}

function makeRow(row) {
  const line = element("tr");
  line.setAttribute("role", "row");
  line.dataset.number = row.number;
  const cells = {};
  for (const name of CELLS) {
    cells[name] = element("td", "", name);
    cells[name].setAttribute("role", "cell");
  }
  line.append(...Object.values(cells));
  const at = new Date(row.at * 1000);
  const time = element("time", at.toLocaleTimeString([], { hour12: false }));
  time.dateTime = at.toISOString();
  time.title = at.toLocaleString();
  cells.time.append(time);
  const made = element("button");
  made.type = "button";
  cells.id.append(made);
  return { element: line, cells, button: made };
}

function drawRow({ element, cells, button }, row, isSelected) {
  setText(button, row.id);
  setText(cells.call, row.target ? `${row.method} ${row.path}` : row.type);
  setText(cells.target, row.target || "–");
  setText(cells.state, row.state);
  setText(cells.attempts, String(row.attempts || "–"));
  setText(cells.status, row.status || "–");
  cells.state.dataset.state = row.state;
  element.classList.toggle("selected", isSelected);
  button.setAttribute("aria-expanded", String(isSelected));
  button.setAttribute("aria-controls", "details");
}
