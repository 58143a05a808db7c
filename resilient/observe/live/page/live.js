// The live page: follows the stream of the server and shows what has changed, a few milliseconds of work in each frame.

import { Circuit, page } from "./policies.js";
import { Model, Pipeline } from "./pipelines.js";
import { clean, clock, count, element, hide, plural, write } from "./format.js";
import { follow } from "./state.js";

const BUDGET = 4; // milliseconds of work in a frame: with a processor four times slower a frame still has time
const NEW_ROWS = 3; // of circuits that are not closed, in one frame
const NEW_LINES = 6; // in one frame
const NEW_BLOCKS = 2;
const CHUNK = 30; // pipelines that are shown at first, and that a click adds
const AGAIN = 250; // milliseconds between two summaries
const CIRCUITS = 30; // circuits in the list of those that are not closed
const LINES = 100; // events that are shown
const QUIET = 5000; // milliseconds between two announcements to screen readers
const STATES = ["open", "half-open", "isolated", "closed"];

const $ = (id) => document.getElementById(id);
const token = document.querySelector('meta[name="resilient-token"]').content;

const models = new Map(); // by the name of the pipeline
const views = new Map();
const dirty = new Set(); // names of pipelines whose views are to be updated
const attention = new Map(); // rows of circuits that are not closed
let names = []; // the pipelines that match the filter, in order
let shown = new Set(); // the first of them
let leaving = false; // whether there are blocks to remove
let late = 0; // frames without a job
let turn = false; // whether the last job was events
let most = CHUNK;
let listed = false; // whether the list of names is right
let moved = false; // whether other pipelines match the filter by now
let counted = false; // whether the summary is right
let summarized = 0; // when it was written last
let paused = false;
let planned = false;
let pid;
let newLines = [];

// -- from the stream -------------------------------------------------------------------------------------------------

const stream = follow({
  message() {
    if (paused || document.hidden) while (stream.waits) stream.take(); // no frame will come
    else plan();
  },
  state(state) {
    if (pid !== undefined && pid !== state.pid && state.controls) location.reload(); // another process: another token
    pid = state.pid;
    page.offset = state.at - Date.now() / 1000;
    page.controls = state.controls && token !== "";
    for (const name of models.keys()) if (!Object.hasOwn(state.pipelines, name)) forget(name);
    for (const name of Object.keys(state.pipelines)) read(state, name);
    $("connection").textContent = `live · process ${pid}`;
    plan();
  },
  change(state, change) {
    if (change.at !== undefined) page.offset = change.at - Date.now() / 1000;
    for (const name of Object.keys(change.pipelines ?? {})) {
      if (Object.hasOwn(state.pipelines, name)) read(state, name);
      else forget(name);
    }
    if (change.tick !== undefined) {
      for (const model of models.values()) model.tick();
      for (const [name, view] of views) if (view.visible) dirty.add(name);
      if (moved) listed = moved = false;
    }
    plan();
  },
  lines(lines) {
    newLines.push(...lines);
    if (newLines.length > LINES) newLines = newLines.slice(-LINES);
    announce(lines);
    plan();
  },
  connection(kind) {
    $("connection").className = `connection ${kind}`;
    if (kind === "lost") $("connection").textContent = "connection lost, trying again";
  },
});

function read(state, name) {
  let model = models.get(name);
  if (!model) {
    models.set(name, (model = new Model(name)));
    listed = false;
  }
  const words = model.words;
  model.read(state.pipelines[name]);
  if (model.words !== words && $("filter").value) moved = true;
  counted = false;
  dirty.add(name);
}

function forget(name) {
  models.delete(name);
  dirty.delete(name);
  listed = counted = false;
}

// -- frames ----------------------------------------------------------------------------------------------------------

function plan() {
  if (planned || paused) return;
  planned = true;
  requestAnimationFrame(frame);
}

function frame() {
  planned = false;
  if (paused) return;
  const until = performance.now() + BUDGET;
  while (stream.waits && performance.now() < until) stream.take();
  if (performance.now() < until || (late += 1) > 2) {
    late = 0;
    if (listed) job(until);
    else list();
  }
  if (!listed || leaving || stream.waits || newLines.length || !counted || dirty.size) plan();
}

/** Do one of the jobs that there are: the browser lays out and paints one part of the page in each frame. */
function job(until) {
  if (leaving) {
    leaving = leave();
    return;
  }
  if (!counted && until - summarized > AGAIN) {
    summarized = until;
    counted = true;
    summarize();
    showAttention();
    return;
  }
  if (newLines.length && (turn = !turn || !dirty.size)) {
    showLines();
    return;
  }
  let made = 0;
  for (const name of dirty) {
    if (performance.now() > until || made === NEW_BLOCKS) break;
    dirty.delete(name);
    if (!shown.has(name)) continue;
    if (!views.has(name)) made += 1;
    show(name);
  }
}

/** Remove some blocks of pipelines that are not shown any more. Returns whether there may be others. */
function leave() {
  let left = NEW_ROWS;
  for (const [name, view] of views) {
    if (shown.has(name)) continue;
    if (left === 0) return true;
    left -= 1;
    visibility.unobserve(view.root);
    view.root.remove();
    views.delete(name);
  }
  return false;
}

const visibility = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    target.pipeline.visible = isIntersecting;
    if (isIntersecting) target.pipeline.draw();
  }
}, { rootMargin: "200px" });

function show(name) {
  let view = views.get(name);
  if (!view) {
    views.set(name, (view = new Pipeline(name)));
    place(name, view);
    visibility.observe(view.root);
  }
  view.update(models.get(name));
}

/** Put a new block at its place: before the next one that is there already. */
function place(name, view) {
  let next = null;
  for (let at = names.indexOf(name) + 1; at < most && at < names.length && !next; at += 1) next = views.get(names[at])?.root ?? null;
  $("pipelines").insertBefore(view.root, next);
}

/** Find the pipelines that match the filter, and remove the blocks of the others. */
function list() {
  listed = true;
  const wanted = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  names = [...models.values()].filter((model) => wanted.every((word) => model.words.includes(word))).map((model) => model.name);
  names.sort((one, other) => (one < other ? -1 : 1));
  shown = new Set(names.slice(0, most));
  for (const name of shown) if (!views.has(name)) dirty.add(name);
  leaving = true;
  const rest = names.length - shown.size;
  hide($("more"), rest === 0);
  write($("more"), `Show ${count(Math.min(CHUNK, rest))} more of ${count(rest)}`);
  write($("shown"), names.length === models.size ? count(models.size) : `${count(names.length)} of ${count(models.size)}`);
  hide($("pipelines-none"), names.length > 0);
  write($("pipelines-none"), models.size ? "No pipeline matches the filter." : "No pipeline has a name yet: Pipeline(..., name=\"users\") is shown here.");
}

function summarize() {
  const states = {};
  for (const model of models.values()) {
    for (const state of Object.keys(model.states)) states[state] = (states[state] ?? 0) + model.states[state];
  }
  const parts = STATES.filter((state) => states[state]).map((state) => `${count(states[state])} ${state}`);
  write($("summary"), `${plural(models.size, "pipeline")}${parts.length ? ` · circuits: ${parts.join(", ")}` : ""}`);
}

function showAttention() {
  const found = [];
  let all = 0;
  let closed = 0;
  for (const model of models.values()) {
    for (const state of Object.keys(model.states)) {
      if (state === "closed") closed += model.states[state];
      else all += model.states[state];
    }
    for (const each of model.circuits) if (found.length < CIRCUITS || attention.has(each.id)) found.push(each);
  }
  found.length = Math.min(found.length, CIRCUITS);
  let made = 0;
  const ids = new Set(found.map((each) => each.id));
  for (const [id, row] of attention) {
    if (!ids.has(id)) {
      row.root.remove();
      attention.delete(id);
    }
  }
  for (const each of found) {
    let row = attention.get(each.id);
    if (!row) {
      if (made === NEW_ROWS) {
        counted = false; // the rest in the next frame
        break;
      }
      made += 1;
      const circuit = new Circuit(each.target);
      const where = element("span", "where", element("b", "", clean(each.target.pipeline)), ` ${clean(each.label)}`);
      where.title = where.textContent;
      row = { root: element("li", "", where, circuit.evidence, circuit.buttons), circuit };
      attention.set(each.id, row);
      $("attention").append(row.root);
    }
    row.circuit.update(each.circuit, `${clean(each.target.pipeline)}, ${clean(each.label)}`);
  }
  hide($("attention-none"), all > 0);
  write($("attention-none"), closed ? (closed === 1 ? "The one circuit is closed." : `All ${count(closed)} circuits are closed.`) : "There are no circuits.");
  hide($("attention-more"), all <= found.length);
  write($("attention-more"), `and ${count(all - found.length)} more: filter the pipelines by “open”, “half-open” or “isolated”.`);
}

setInterval(() => {
  if (paused || document.hidden) return;
  for (const row of attention.values()) row.circuit.count();
  for (const view of views.values()) if (view.visible) view.tick();
}, 500);

// -- events ----------------------------------------------------------------------------------------------------------

function showLines() {
  const fragment = document.createDocumentFragment();
  for (const line of newLines.splice(0, NEW_LINES)) {
    const time = element("time", "", clock(line.at));
    const source = element("div", "source", element("b", "", clean(line.pipeline)), line.policy ? ` ${clean(line.policy)}` : "");
    source.title = source.textContent;
    const what = element("div", "what", clean(line.text));
    if (line.count > 1) what.append(element("span", "times", ` ×${count(line.count)}`));
    fragment.prepend(element("li", line.level === "warning" ? "warning" : "", time, source, what));
  }
  const list = $("lines");
  list.prepend(fragment);
  while (list.childElementCount > LINES) list.lastElementChild.remove();
  hide($("events-none"), true);
}

let announced = 0;
let unsaid = [];

/** Tell screen readers about circuits that change, in one sentence every few seconds. */
function announce(lines) {
  for (const line of lines) {
    if (line.kind === "CircuitChanged") unsaid.push(`${clean(line.pipeline)}, ${clean(line.policy)}: ${clean(line.text)}`);
  }
  if (!unsaid.length || announced) return;
  announced = setTimeout(() => {
    announced = 0;
    const last = unsaid.slice(-3);
    const rest = unsaid.length - last.length;
    unsaid = [];
    if (!paused) write($("announcement"), `${last.join(". ")}${rest ? `. And ${plural(rest, "other change")} of circuits` : ""}.`);
  }, $("announcement").textContent ? QUIET : 100);
}

// -- buttons and keys ------------------------------------------------------------------------------------------------

page.send = async (asked) => {
  let text;
  try {
    const answer = await fetch("control", {
      method: "POST",
      headers: { "content-type": "application/json", "x-resilient-token": token },
      body: JSON.stringify({ pid, ...asked }),
    });
    text = await answer.text();
  } catch (error) {
    text = `The server does not answer: ${error.message}`;
  }
  write($("message"), clean(text));
  clearTimeout(page.hide);
  page.hide = setTimeout(() => write($("message"), ""), 6000);
};

$("filter").addEventListener("input", () => {
  most = CHUNK;
  listed = false;
  plan();
});

$("more").addEventListener("click", () => {
  most += CHUNK;
  listed = false;
  plan();
});

$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  plan();
});

addEventListener("keydown", (event) => {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    $("filter").focus();
  } else if (event.key === "Escape" && document.activeElement === $("filter")) {
    $("filter").value = "";
    $("filter").dispatchEvent(new Event("input"));
  }
});
