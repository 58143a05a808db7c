"""The live page: one web page with the pipelines of this process, for developers and operators.

    from resilient.observe.live import LiveView

    app.mount("/live", LiveView())                                           # Starlette, FastAPI
    Litestar([asgi("/live", is_mount=True, copy_scope=True)(LiveView())])
    uvicorn.run(LiveView(), port=8001)                                       # a server of its own

The page shows pipelines as trees, circuits with their evidence, rates and latencies of the last minute, and events as
they happen. While no page is open, nothing runs and nothing is listened to. While one is open, a thread reads the
snapshots (`resilient.registry`) and counters, and durations of calls are recorded.

    app         LiveView: the ASGI application, its paths and its header fields
    access      decides which requests are answered: clients, hosts, origins, the token
    controls    what buttons do: circuits opened, closed, isolated; pipelines switched
    reading     the state of all pipelines as plain data
    figures     rates and latencies, from the counters and histograms of two moments
    difference  differences between two states, and how to apply one
    lines       events as lines: chosen kinds, bounded in number
    feed        the thread that reads the state while streams are open
    reader      one open stream: what its page has, and what to send next
    stopping    finds out that the server of a stream shuts down

**Paths**, below the path at which it is mounted:

    GET  /              the page
    GET  /state.json    the state, once
    GET  /events        the state, and then its differences, as server-sent events
    GET  /keys.json     the keys of one Keyed that match a filter: ?pipeline=users&policy=1&filter=eu
    POST /control       what a button does (only with `controls=True`)

**The state** is a JSON object. Times are seconds since 1970 (`at`, `probe_at`); durations are seconds. A field without
a value is left out: no value is null.

    {"format": 1, "pid": 4711, "at": 1764520000.2, "controls": false, "tick": 12,
     "pipelines": {"users": {
        "mode": "on", "in_flight": 3, "closed": false,
        "figures": {"calls": 1200, "failures": 30, "rejected": 4,    the counts of calls since the start
                    "rate": 41.0, "bad": 0.025, "p50": 0.012, "p99": 0.2},  of the last second; p50, p99: if calls ended
        "policies": {
          "0": {"kind": "Retry", "name": "Retry", "text": "Retry(3 attempts, ...)", "now": {"retried": 17}},
          "1": {"kind": "CircuitBreaker", "name": "db", "text": "CircuitBreaker(50% failures, ...)",
                "circuit": {"state": "open", "calls": 12, "failures": 9, "slow": 0, "in_a_row": 4, "refused": 3,
                            "probes": 0, "probe_at": 1764520004.9}},
          "2": {"kind": "Keyed", "name": "Keyed", "text": "...",
                "keys": 1000, "max_keys": 1024, "in_use": 7, "states": {"closed": 998, "open": 2},
                "gates": {"CircuitBreaker[eu-1]": {"key": "eu-1", "circuit": {...}}}},
          "3": {"kind": "Pipeline", "name": "inner", "mode": "on", "in_flight": 0, "closed": false,
                "policies": {...}}}},
       "orders": {"error": "TypeError: ..."}}}       the snapshot of a pipeline (or of a policy) raised

`now` is the snapshot of the policy, as it is. `gates` has at most 50 keys: those whose circuits are not closed first,
then in the order of their names; `states` counts the circuits of all keys. `p50` and `p99` are latencies of calls that
were neither refused nor cancelled. `bad` is the share of bad calls as the alerts count them
(`resilient.observe.bad_calls`). `figures` without `rate`, `bad`, `p50` and `p99` is of a state that was read while
no stream was open, or of a second without calls.

**The stream** has three kinds of messages. Its `data` is JSON in one line.

    event: state      the state: the first message. It has at most 25 pipelines; the others follow as changes
    event: change     the difference from the state before, as a JSON merge patch (RFC 7396): `apply(state, change)`.
                      `tick` grows by one each second: then the figures are new
    event: lines      new events, oldest first: [{"number": 7, "at": 1764520000.1, "pipeline": "users", "policy": "db",
                      "kind": "CircuitChanged", "level": "warning", "text": "closed -> open: ...", "count": 1}];
                      `count` above 1: as many like it in that moment

A client that reads too slowly misses states, never differences: the next difference is from the last state that it was
sent. A change comes each second at least, unless reading the state takes longer than that. The stream ends when the
server shuts down.
"""

from resilient.observe.live.app import LiveView
from resilient.observe.live.difference import apply, difference

__all__ = ["LiveView", "apply", "difference"]
