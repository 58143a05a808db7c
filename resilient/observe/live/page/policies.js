// One policy of a tree: its name, its settings, and its state in a few words.

import { circuitSign } from "./trends.js";
import { clean, count, duration, element, entitle, hide, mark, plural, settings, words, write } from "./format.js";

/** What the views need of the page: its time, its buttons. */
export const page = { offset: 0, controls: false, send: () => {}, now: () => Date.now() / 1000 + page.offset };

const NEW_ROWS = 3; // of a list, in one frame

const ACTIONS = [["open", "Open"], ["close", "Close"], ["isolate", "Isolate"]];
const POSSIBLE = { closed: "open isolate", open: "close isolate", "half-open": "open close isolate", isolated: "close" };

/** The state of a circuit, with its evidence and its buttons. */
export class Circuit {
  constructor(target) {
    this.target = target;
    this.sign = circuitSign();
    this.word = element("span");
    this.state = element("span", "state", this.sign.root, this.word);
    this.failed = element("span", "part");
    this.next = element("span", "part");
    this.refused = element("span", "part");
    this.evidence = element("span", "evidence", this.state, this.failed, this.next, this.refused);
    this.buttons = element("span", "buttons");
    this.buttons.hidden = true;
  }

  update(circuit, label) {
    this.circuit = circuit;
    if (this.word.textContent !== circuit.state) {
      this.state.className = `state ${circuit.state}`;
      this.sign.show(circuit.state);
    }
    write(this.word, circuit.state);
    const slow = circuit.slow ? `, ${count(circuit.slow)} slow` : "";
    write(this.failed, circuit.calls ? `${count(circuit.failures)} of ${count(circuit.calls)} failed${slow}` : "");
    hide(this.failed, !circuit.calls);
    write(this.refused, `${count(circuit.refused)} refused`);
    hide(this.refused, !circuit.refused);
    this.count();
    if (page.controls) this.offer(label);
  }

  /** Show the seconds until the next probe. */
  count() {
    const { state, probes, probe_at: at } = this.circuit;
    let text = "";
    if (state === "open" && at !== undefined) {
      const left = Math.ceil(at - page.now());
      text = left > 0 ? `probe in ${left} s` : "probe with the next call";
    } else if (state === "half-open") {
      text = probes ? `${plural(probes, "probe")} in flight` : "probe with the next call";
    } else if (state === "isolated") {
      text = "until it is closed by hand";
    }
    write(this.next, text);
    hide(this.next, !text);
  }

  offer(label) {
    if (!this.buttons.firstChild) {
      for (const [action, word] of ACTIONS) {
        const button = element("button", "small", word);
        button.type = "button";
        button.dataset.action = action;
        button.addEventListener("click", () => {
          if (button.getAttribute("aria-disabled") !== "true") page.send({ ...this.target, action });
        });
        this.buttons.append(button);
      }
      this.buttons.hidden = false;
    }
    for (const button of this.buttons.children) {
      const can = POSSIBLE[this.circuit.state]?.includes(button.dataset.action);
      mark(button, "aria-disabled", can ? null : "true"); // stays in the order of focus: a button never vanishes under it
      mark(button, "aria-label", `${button.textContent} the circuit of ${label}`);
    }
  }
}

/** The list of the keys of a Keyed, with its filter. */
class Keys {
  constructor(target) {
    this.target = target;
    this.gates = new Map();
    this.title = element("summary", "", "Keys");
    this.filter = element("input");
    this.filter.type = "search";
    this.filter.placeholder = "filter keys";
    this.filter.setAttribute("aria-label", `Filter the keys of ${clean(target.pipeline)}`);
    this.list = element("ul", "circuits");
    this.note = element("p", "calm");
    this.root = element("details", "", this.title, element("div", "keys", this.filter, this.list, this.note));
    this.filter.addEventListener("input", () => this.ask());
    this.root.addEventListener("toggle", () => this.show());
  }

  update(policy) {
    this.policy = policy;
    if (this.root.open) this.later();
  }

  /** Ask the server for the keys that match: the state has only the first ones. */
  async ask() {
    clearTimeout(this.timer);
    this.timer = undefined;
    const wanted = this.filter.value;
    if (!wanted) return this.show();
    const { pipeline, policy } = this.target;
    try {
      const answer = await fetch(`keys.json?${new URLSearchParams({ pipeline, policy, filter: wanted })}`);
      if (!answer.ok) throw new Error(await answer.text());
      const { gates } = await answer.json();
      if (this.filter.value === wanted) this.fill(gates, true);
    } catch (error) {
      write(this.note, clean(error.message));
    }
  }

  /** Show the keys again, at most twice a second. */
  later() {
    this.timer ??= setTimeout(() => this.ask(), 500);
  }

  show() {
    if (this.root.open && this.policy && !this.filter.value) this.fill(this.policy.gates ?? {}, false);
  }

  /** Show these gates. New rows are made a few in each frame. */
  fill(gates, filtered) {
    cancelAnimationFrame(this.next);
    let made = 0;
    for (const [name, row] of this.gates) {
      if (!Object.hasOwn(gates, name)) {
        row.root.remove();
        this.gates.delete(name);
      }
    }
    let before = null;
    for (const name of Object.keys(gates)) {
      let row = this.gates.get(name);
      if (!row) {
        if (made === NEW_ROWS) {
          this.next = requestAnimationFrame(() => this.fill(gates, filtered));
          break;
        }
        made += 1;
        this.gates.set(name, (row = new Gate({ ...this.target, gate: name })));
      }
      row.update(gates[name]);
      const place = before ? before.nextSibling : this.list.firstChild;
      if (place !== row.root) this.list.insertBefore(row.root, place);
      before = row.root;
    }
    const shown = Object.keys(gates).length;
    write(this.note, filtered ? `${plural(shown, "key")} match` : shown < this.policy.keys ? `${count(shown)} of ${count(this.policy.keys)} keys: filter for others` : "");
  }

  tick() {
    if (this.root.open) for (const row of this.gates.values()) row.tick();
  }
}

/** One key of a Keyed. */
class Gate {
  constructor(target) {
    this.target = target;
    this.key = element("span", "where");
    this.evidence = element("span", "evidence");
    this.root = element("li", "", this.key, this.evidence);
  }

  update(gate) {
    write(this.key, clean(gate.key));
    entitle(this.key, this.key.textContent);
    if (!gate.circuit) return write(this.evidence, gate.error ? clean(gate.error) : facts(gate.now ?? {}));
    if (!this.circuit) {
      this.circuit = new Circuit(this.target);
      this.evidence.replaceWith(this.circuit.evidence);
      this.root.append(this.circuit.buttons);
    }
    this.circuit.update(gate.circuit, this.key.textContent);
  }

  tick() {
    this.circuit?.count();
  }
}

/** One policy, or a nested pipeline with its own tree. */
export class Policy {
  constructor(target, nested) {
    this.target = target;
    this.nested = nested;
    this.name = element("span", "kind");
    this.settings = element("span", "settings");
    this.evidence = element("span", "evidence");
    this.right = element("span", "right", this.evidence);
    this.row = element("div", "row", this.name, this.settings, this.right);
    this.root = element("li", "", this.row);
  }

  update(policy) {
    this.title(policy);
    write(this.settings, clean(settings(policy.text ?? "", policy.kind)));
    entitle(this.settings, this.settings.textContent);
    this.row.classList.toggle("error", policy.error !== undefined);
    if (policy.error !== undefined) return this.say(`its snapshot failed: ${clean(policy.error)}`);
    if (policy.circuit) this.showCircuit(policy.circuit);
    else if (policy.kind === "Pipeline") this.showNested(policy);
    else if (policy.gates) this.showKeys(policy);
    else this.showState(policy);
  }

  title(policy) {
    const name = policy.name && policy.name !== policy.kind ? clean(policy.name) : "";
    const note = [name, policy.shadow ? "shadow" : ""].filter(Boolean).join(", ");
    const key = `${policy.kind}\n${note}`;
    if (this.titled === key) return;
    this.titled = key;
    this.name.replaceChildren(clean(policy.kind), ...(note ? [element("small", "", note)] : []));
    this.name.title = note;
  }

  say(text) {
    if (this.said !== text) this.evidence.replaceChildren((this.said = text));
  }

  showCircuit(circuit) {
    if (!this.circuit) {
      this.circuit = new Circuit(this.target);
      this.evidence.replaceWith(this.circuit.evidence);
      this.evidence = this.circuit.evidence;
      this.right.append(this.circuit.buttons);
    }
    this.circuit.update(circuit, clean(this.target.pipeline));
  }

  showNested(policy) {
    this.tree ??= this.root.appendChild(this.nested(this.target));
    this.tree.update(policy);
    const mode = policy.mode === "on" ? "" : `mode ${policy.mode}, `;
    this.say(`${mode}${count(policy.in_flight)} in flight`);
  }

  showKeys(policy) {
    if (!this.keys) this.row.append((this.keys = new Keys(this.target)).root);
    const states = Object.entries(policy.states ?? {}).map(([state, number]) => `${count(number)} ${state}`);
    this.say([plural(policy.keys, "key"), ...states, `${count(policy.in_use)} in use`].join(" · "));
    this.keys.update(policy);
  }

  showState(policy) {
    const { now = {} } = policy;
    const use = now.in_use ?? now.in_flight;
    const limit = now.max_concurrent ?? now.limit;
    if (use === undefined || !limit) return this.say(facts(now));
    if (!this.meter) {
      this.meter = element("meter");
      this.meter.min = 0;
      this.meter.setAttribute("aria-label", "permits in use");
      this.text = element("span");
      this.evidence.replaceChildren(element("span", "", this.meter, this.text));
    }
    if (this.meter.max !== limit) this.meter.max = limit;
    if (this.meter.value !== use) this.meter.value = use;
    const queued = now.queue ? ` · ${count(now.queued)} of ${count(now.queue)} queued` : "";
    write(this.text, `${count(use)} of ${count(limit)} in use${queued}`);
  }

  tick() {
    this.circuit?.count();
    this.keys?.tick();
    this.tree?.tick();
  }
}

/** A snapshot in a few words: its numbers that are not 0. */
function facts(now) {
  if (now.burst !== undefined) return `${count(now.tokens)} of ${plural(now.burst, "token")}${now.queued ? ` · ${count(now.queued)} queued` : ""}`;
  const found = [];
  if (now.halted) found.push(`halted: ${clean(now.halted)}`);
  for (const [name, value] of Object.entries(now)) {
    if (typeof value === "number" && value !== 0) {
      found.push(name.endsWith("_seconds") ? `${words(name.slice(0, -8))} ${duration(value)}` : `${count(value)} ${words(name)}`);
    }
  }
  if (Array.isArray(now.delays)) {
    const delays = now.delays.filter((each) => typeof each === "number");
    if (delays.length) found.push(`after ${delays.map(duration).join(", ")}`);
  }
  if (now.budget?.tokens !== undefined) found.push(`budget ${count(Math.floor(10 * now.budget.tokens) / 10)} tokens`);
  return found.slice(0, 5).join(" · ");
}
