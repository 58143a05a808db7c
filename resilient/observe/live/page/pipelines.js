// One pipeline: its figures with their trends, and the tree of its policies.

import { Policy, page } from "./policies.js";
import { Sparkline, Trend } from "./trends.js";
import { clean, count, duration, element, hide, rate, share, write } from "./format.js";

const MODES = [["default", "default"], ["on", "on"], ["once", "once"], ["instant", "instant"], ["off", "off"]];

/** What the page remembers of a pipeline that it may not show: its trends, its circuits, its words. */
export class Model {
  constructor(name) {
    this.name = name;
    this.rate = new Trend();
    this.bad = new Trend();
    this.latency = new Trend();
    this.circuits = [];
    this.words = "";
  }

  /** Take a new state: find its circuits that are not closed, count all, and note its words for the filter. */
  read(pipeline) {
    this.pipeline = pipeline;
    this.circuits = [];
    this.states = {};
    const found = [this.name, pipeline.mode ?? "", pipeline.error ? "error" : ""];
    this.visit(pipeline, "", found);
    this.words = found.join("\n").toLowerCase();
    this.trouble = this.circuits.length > 0 || pipeline.error !== undefined;
  }

  visit(pipeline, path, found) {
    const policies = pipeline.policies ?? {};
    for (const at of Object.keys(policies)) {
      const policy = policies[at];
      const here = path ? `${path}.${at}` : at;
      found.push(policy.kind, policy.name);
      if (policy.error) found.push("error");
      if (policy.policies) this.visit(policy, here, found);
      if (policy.circuit) {
        this.add(policy.circuit.state, 1);
        if (policy.circuit.state !== "closed") this.note(policy.name, policy.circuit, { policy: here });
        found.push(policy.circuit.state);
      }
      for (const state of Object.keys(policy.states ?? {})) {
        this.add(state, policy.states[state]);
        found.push(state);
      }
      for (const gate of Object.keys(policy.gates ?? {})) {
        const { circuit, key } = policy.gates[gate];
        if (circuit && circuit.state !== "closed") this.note(key, circuit, { policy: here, gate });
      }
    }
  }

  add(state, number) {
    this.states[state] = (this.states[state] ?? 0) + number;
  }

  note(label, circuit, place) {
    this.circuits.push({ label, circuit, target: { pipeline: this.name, ...place }, id: `${this.name}\n${place.policy}\n${place.gate ?? ""}` });
  }

  /** Note the figures of one more second. */
  tick() {
    const { rate: now, bad, p99 } = this.pipeline.figures ?? {};
    this.rate.push(now);
    this.bad.push(now === undefined || bad === undefined ? undefined : now * bad);
    this.latency.push(p99);
  }
}

/** A list of policies. */
class Tree {
  constructor(target) {
    this.target = target;
    this.policies = new Map();
    this.root = element("ul", "tree");
  }

  update(pipeline) {
    const policies = pipeline.policies ?? {};
    for (const [at, view] of this.policies) {
      if (!Object.hasOwn(policies, at) || view.kind !== policies[at].kind) {
        view.root.remove();
        this.policies.delete(at);
      }
    }
    for (const at of Object.keys(policies)) {
      let view = this.policies.get(at);
      if (!view) {
        const path = this.target.policy ? `${this.target.policy}.${at}` : at;
        view = new Policy({ pipeline: this.target.pipeline, policy: path }, nest);
        view.kind = policies[at].kind;
        this.policies.set(at, view);
        this.root.append(view.root);
      }
      view.update(policies[at]);
    }
  }

  tick() {
    for (const view of this.policies.values()) view.tick();
  }
}

function nest(target) {
  const tree = new Tree(target);
  const root = tree.root;
  root.update = (pipeline) => tree.update(pipeline);
  root.tick = () => tree.tick();
  return root;
}

let numbered = 0;

/** The block of one pipeline. */
export class Pipeline {
  constructor(name) {
    this.name = name;
    this.visible = false;
    const id = `pipeline-${(numbered += 1)}`;
    this.note = element("small");
    this.title = element("h3", "", clean(name) || "(no name)", this.note);
    this.title.id = id;
    this.title.title = clean(name);
    this.rateLine = new Sparkline();
    this.latencyLine = new Sparkline();
    this.figures = {};
    const figures = element("div", "figures", this.rateLine.root);
    for (const [field, label] of [["rate", "calls"], ["bad", "bad"], ["", ""], ["p50", "p50"], ["p99", "p99"]]) {
      if (!field) figures.append(this.latencyLine.root);
      else figures.append((this.figures[field] = figure(label)).root);
    }
    this.mode = element("span");
    this.tree = new Tree({ pipeline: name, policy: "" });
    this.failure = element("p", "failure");
    this.root = element("article", "", element("div", "head", this.title, figures, this.mode), this.tree.root, this.failure);
    this.root.setAttribute("aria-labelledby", id);
    this.root.pipeline = this;
  }

  /** Show the state of the pipeline. */
  update(model) {
    const { pipeline } = model;
    this.model = model;
    this.root.classList.toggle("trouble", model.trouble);
    hide(this.failure, pipeline.error === undefined);
    if (pipeline.error !== undefined) write(this.failure, `Its snapshot failed: ${clean(pipeline.error)}`);
    const { rate: now, bad, p50, p99, calls } = pipeline.figures ?? {};
    const mode = pipeline.mode && pipeline.mode !== "on" ? ` · mode ${pipeline.mode}` : "";
    const total = calls === undefined ? "" : ` · ${count(calls)} calls so far`;
    write(this.note, pipeline.error === undefined ? `${count(pipeline.in_flight)} in flight${pipeline.closed ? " · closed" : ""}${mode}${total}` : "");
    this.figures.rate.write(now === undefined ? "–" : rate(now));
    this.figures.bad.write(bad === undefined ? "–" : share(bad), bad > 0);
    this.figures.p50.write(p50 === undefined ? "–" : duration(p50));
    this.figures.p99.write(p99 === undefined ? "–" : duration(p99));
    if (page.controls) this.offer(pipeline);
    this.tree.update(pipeline);
    if (this.visible) this.draw();
  }

  /** Draw the trends. */
  draw() {
    if (!this.model) return;
    this.rateLine.draw(this.model.rate, this.model.bad);
    this.latencyLine.draw(this.model.latency);
  }

  offer(pipeline) {
    if (!this.select) {
      this.select = element("select", "small", ...MODES.map(([value, word]) => {
        const option = element("option", "", word);
        option.value = value;
        return option;
      }));
      this.select.setAttribute("aria-label", `Mode of ${clean(this.name)}`);
      this.select.addEventListener("change", () =>
        page.send({ pipeline: this.name, policy: "", action: "switch", mode: this.select.value }));
      this.mode.append(this.select);
    }
    const mode = pipeline.own_mode ?? "default";
    if (this.select.value !== mode && document.activeElement !== this.select) this.select.value = mode;
  }

  tick() {
    this.tree.tick();
  }
}

function figure(label) {
  const value = element("b", "", "–");
  const root = element("span", "", value, ` ${label}`);
  return {
    root,
    write(text, isBad = false) {
      write(value, text);
      root.classList.toggle("some", isBad);
    },
  };
}
