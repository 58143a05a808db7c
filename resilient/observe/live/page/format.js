// Texts of the page: numbers, times and names. Names may come from outside, so nothing here makes markup.

const SUSPICIOUS = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\ufff9-\ufffb]/g;

/** A text with its control characters, and those that turn or hide other text, as visible escapes. */
export function clean(text) {
  return String(text).replace(/[\ud800-\udbff][\udc00-\udfff]|[^]/g, (each) =>
    each.length === 2 ? each : each.replace(SUSPICIOUS, (one) => "\\u" + one.charCodeAt(0).toString(16).padStart(4, "0")));
}

const whole = new Intl.NumberFormat("en-US");

/** A count, with separators. */
export function count(value) {
  return whole.format(value);
}

/** Calls in a second. */
export function rate(value) {
  return `${value >= 100 ? count(Math.round(value)) : value >= 10 || value === 0 ? value.toFixed(0) : value.toFixed(1)}/s`;
}

/** A share from 0 to 1, as a percentage. */
export function share(value) {
  const percent = 100 * value;
  return `${percent === 0 || percent >= 10 ? percent.toFixed(0) : percent.toFixed(1)}%`;
}

/** A duration in seconds. */
export function duration(seconds) {
  if (seconds < 0.001) return `${Math.max(1, Math.round(seconds * 1e6))} µs`;
  if (seconds < 0.01) return `${(seconds * 1000).toFixed(1)} ms`;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 10 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds)} s`;
}

/** A moment, in seconds since 1970, as the local time of day. */
export function clock(at) {
  const time = new Date(1000 * at);
  return [time.getHours(), time.getMinutes(), time.getSeconds()].map((each) => String(each).padStart(2, "0")).join(":");
}

/** The settings of a policy: its text without the name of its class. */
export function settings(text, kind) {
  return text.startsWith(`${kind}(`) && text.endsWith(")") ? text.slice(kind.length + 1, -1) : text === kind ? "" : text;
}

/** "1 call", "2 calls". */
export function plural(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** The name of a field of a snapshot, for people: "would_have_refused" is "would have refused". */
export function words(name) {
  return clean(name.replaceAll("_", " "));
}

/** An element with a class and children (elements or texts). */
export function element(tag, className = "", ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** Set the text of an element, if it has another. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Hide an element or show it. */
export function hide(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

/** Set the title of an element, if it has another. */
export function entitle(node, text) {
  if (node.title !== text) node.title = text;
}

/** Set an attribute of an element, if it has another; null removes it. */
export function mark(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}
