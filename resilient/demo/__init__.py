"""`resilient demo`: what the policies are worth, against real processes that really fail.

Two loads run side by side for some twenty seconds. Both call the same little inventory service:
three HTTP server processes a side. One load calls it as most code does, with a plain
`httpx.AsyncClient`; the other with the same client on our transport and the standard hedged pipeline
(`service.py` has both, and is meant to be read as an example). Meanwhile every process has a slow
tail, some answer 503 for a while, and one is killed with SIGKILL and brought back.

What makes the comparison fair, and where that ends:

- *The same calls.* Both loads are open-loop: arrivals follow one seeded Poisson schedule, whether
  or not earlier calls have been answered, and latency counts from the scheduled arrival, so that a
  stalled client cannot hide its queue. Both make them by the same function, and send them to the
  processes in turn.
- *The same faults.* Each side has its own three processes, so that neither load slows the other's
  servers down or warms them up. Processes of the same number draw from the same seed and fail in
  the same windows, and the same number is killed and restarted on both sides at the same moment.
- *The same machine.* Both clients share one event loop: what delays it delays both alike.
- *Every request counts.* On both sides requests are counted by the transport that sends them, below
  all policies: hedges, also those that lose, retries, probes, and what a dead process refuses.
- *Not* the same: the slow tail is drawn per request, so the two sides do not see the very same slow
  answers, and how long a killed process stays away depends on how fast this machine starts Python
  (some 0.5 s of the outage).

The rooms: `faults` (what goes wrong, when) · `server` (one process) · `fleet` (the processes of a
side) · `service` (the two clients) · `load` (arrivals and records) · `tally` (rates and
percentiles) · `extras` (hedges, retries, budget) · `experiment` (all of it, run) · `gates` (the
verdict) · `screen`, `report`, `plot` (what is shown).
"""
