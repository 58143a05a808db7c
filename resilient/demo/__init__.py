"""`resilient demo`: what the policies are worth, against real processes that really fail.

Two loads run side by side for some twenty seconds. Both call the same small inventory service: three HTTP server
processes on each side. One load uses a plain `httpx.AsyncClient`, as most code does; the other the same client with our
transport and the standard hedged pipeline (`service.py` has both, and is meant as an example to read). Meanwhile every
process has a slow tail, some answer 503 for a while, and one is killed with SIGKILL and restarted.

What makes the comparison fair, and its limits:

- *The same calls.* Both loads are open-loop: arrivals follow one seeded Poisson schedule, whether or not earlier calls
have been answered, and latency counts from the scheduled arrival, so that a stalled client cannot hide its queue. Both
make the calls with the same function, and send them to the processes in turn.
- *The same faults.* Each side has its own three processes, so that neither load slows or warms up the other's servers.
Processes with the same number draw from the same seed and fail in the same windows, and the process with the same
number is killed and restarted on both sides at the same moment.
- *The same machine.* Both clients share one event loop: a delay of the loop affects both.
- *Every request counts.* On both sides the transport that sends requests counts them, below all policies: hedges, also
those that lose, retries, probes, and requests that a dead process refuses.
- *Not* the same: the slow tail is drawn per request, so the two sides do not see exactly the same slow answers, and the
length of the outage of a killed process depends on how fast this machine starts Python (some 0.5 s of it).

What runs:

    faults        the faults, and their times
    server        one server process, with its faults
    fleet         the server processes of one side
    service       the two clients
    load          the arrivals of calls, and their records
    experiment    one run of all this
    background    the guarded side alone, without end and with a live page, for `resilient watch --demo`

Its results:

    extras        hedges, retries, and the budget that pays for them
    tally         success rates and percentiles
    gates         the conditions for exit code 0
    screen        the display during the run
    report        the results, as a table and as JSON
    plot          the results over time
    session       the run of the command, from its settings to the results
"""
