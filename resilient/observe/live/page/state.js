// The state of the server: one message has all of it, those after have what has changed (JSON merge patches).

/** Apply a merge patch to an object, in place. */
export function apply(state, change) {
  for (const name of Object.keys(change)) {
    const value = change[name];
    if (value === null) {
      delete state[name];
    } else if (typeof value === "object" && !Array.isArray(value)) {
      const before = Object.hasOwn(state, name) ? state[name] : undefined;
      const inner = typeof before === "object" && !Array.isArray(before) ? before : fresh();
      put(state, name, apply(inner, value));
    } else {
      put(state, name, value);
    }
  }
  return state;
}

/** An object without a prototype: a pipeline may be called "__proto__". */
function fresh() {
  return Object.create(null);
}

function put(state, name, value) {
  Object.defineProperty(state, name, { value, writable: true, enumerable: true, configurable: true });
}

/**
 * Follow the stream of events of the server, and open it again when it ends.
 *
 * on.message(): a message has come, and waits until it is taken in by `take()` of the object that is returned. Then:
 * on.state(state): a new state. on.change(state, change): after a change. on.lines(lines): new events.
 * on.connection(kind): "live", "lost".
 */
export function follow(on) {
  const waiting = [];
  let state = fresh();
  let source;
  let lost;

  function open() {
    source = new EventSource("events");
    for (const kind of ["state", "change", "lines"]) {
      source.addEventListener(kind, (event) => {
        if (kind === "state") connected();
        waiting.push([kind, event.data]);
        on.message();
      });
    }
    source.addEventListener("error", () => {
      lost ??= setTimeout(() => on.connection("lost"), 2500); // a stream that is opened again is no loss
      if (source.readyState === EventSource.CLOSED) setTimeout(open, 3000); // an error as an answer: it gives up
    });
  }

  function connected() {
    clearTimeout(lost);
    lost = undefined;
    on.connection("live");
  }

  /** Take in the oldest message. Returns whether there are others. */
  function take() {
    const [kind, data] = waiting.shift();
    const content = JSON.parse(data);
    if (kind === "state") on.state((state = apply(fresh(), content)));
    else if (kind === "change") on.change(apply(state, content), content);
    else on.lines(content);
    return waiting.length > 0;
  }

  open();
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (event) => event.persisted && open());
  return { take, get waits() { return waiting.length > 0; } };
}
