// Sparklines: the rate and the latency of the last minute, as small curves.

const LENGTH = 60;
const WIDTH = 100;
const HEIGHT = 20;
const SVG = "http://www.w3.org/2000/svg";

/** The values of the last minute, one for each second. A value of undefined is a gap. */
export class Trend {
  constructor() {
    this.values = new Array(LENGTH).fill(undefined);
    this.at = 0;
  }

  /** Append the value of one more second. */
  push(value) {
    this.values[this.at] = value;
    this.at = (this.at + 1) % LENGTH;
  }

  /** The value of a second, 0 for the oldest. */
  get(number) {
    return this.values[(this.at + number) % LENGTH];
  }

  /** The greatest value, or 0. */
  most() {
    let most = 0;
    for (const value of this.values) if (value > most) most = value;
    return most;
  }
}

function shape(tag, className) {
  const made = document.createElementNS(SVG, tag);
  made.setAttribute("class", className);
  return made;
}

/** A curve of one trend, and red bars of a part of it. */
export class Sparkline {
  constructor() {
    this.root = shape("svg", "spark");
    this.root.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.root.setAttribute("preserveAspectRatio", "none");
    this.root.setAttribute("aria-hidden", "true");
    const base = shape("path", "base");
    base.setAttribute("d", `M0 ${HEIGHT}H${WIDTH}`);
    this.area = shape("path", "area");
    this.line = shape("path", "line");
    this.failed = shape("path", "failed");
    this.root.append(base, this.area, this.line, this.failed);
  }

  /** Draw a trend. `part`: another trend on the same scale, or undefined. */
  draw(trend, part) {
    const most = trend.most() || 1;
    const line = path(trend, most);
    trace(this.line, line.curve);
    trace(this.area, line.area);
    trace(this.failed, part === undefined ? "" : bars(part, most));
  }
}

function trace(shape, curve) {
  if (shape.getAttribute("d") !== curve) shape.setAttribute("d", curve);
}

/** A bar for each second with a value above 0. */
function bars(trend, most) {
  let drawn = "";
  for (let at = 0; at < LENGTH; at += 1) {
    const value = trend.get(at);
    if (value) drawn += `M${((WIDTH * at) / (LENGTH - 1)).toFixed(1)} ${HEIGHT}v-${Math.max(2, (HEIGHT * value) / most).toFixed(1)}`;
  }
  return drawn;
}

function path(trend, most) {
  let curve = "";
  let area = "";
  let start;
  let x = 0;
  for (let at = 0; at < LENGTH; at += 1) {
    const value = trend.get(at);
    x = (WIDTH * at) / (LENGTH - 1);
    if (value === undefined) {
      if (start !== undefined) area += `V${HEIGHT}H${start.toFixed(1)}Z`;
      start = undefined;
      continue;
    }
    const point = `${x.toFixed(1)} ${(HEIGHT - 1 - ((HEIGHT - 2) * value) / most).toFixed(1)}`;
    if (start === undefined) {
      start = x;
      curve += `M${point}`;
      area += `M${x.toFixed(1)} ${HEIGHT}L${point}`;
    } else {
      curve += `L${point}`;
      area += `L${point}`;
    }
  }
  if (start !== undefined) area += `V${HEIGHT}H${start.toFixed(1)}Z`;
  return { curve, area };
}

const SWITCHES = {
  closed: "M1 6H17",
  open: "M1 8H5L11 1M13 8H17",
  "half-open": "M1 8H5L12 5M13 8H17",
  isolated: "M1 5H5M13 5H17M7 2L11 8M11 2L7 8",
};

/** Draw the switch of a circuit in a state. */
export function circuitSign() {
  const root = shape("svg", "sign");
  root.setAttribute("viewBox", "0 0 18 10");
  root.setAttribute("aria-hidden", "true");
  const line = shape("path", "");
  root.append(line);
  return { root, show: (state) => line.setAttribute("d", SWITCHES[state] ?? SWITCHES.isolated) };
}
