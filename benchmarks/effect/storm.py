"""The effect of retries on a service that fails, and how policies bound it: two experiments in `resilient.lab`.

Our own policies, and the same policies as tenacity, nopanic and plain loops write them, in the same worlds with the
same arrivals. Expected figures are those of a plain simulation of textbook policies:

- *E3* (`storm_failures`), after M. Brooker, Fixing retries with token buckets and circuit breakers: each attempt fails
  with probability f. The article shows curves, and no figures.
- *E4* (`storm_overload`), after N. Bronson et al., Metastable Failures (HotOS '21), and L. Huang et al. (OSDI '22): for
  ten seconds a service begins nothing. Does it ever recover? *recovery*: seconds until the first of five seconds that
  each have a goodput of 92% of the load, in the worst of the seeds. *goodput*: successes per call made, over the 60 s
  that follow the fault.

"breaker and budget" is the pair that the bars are for: `CircuitBreaker(0.5, window_seconds=10, min_calls=20,
break_duration=5, max_break=5)` and `Budget()` (0.1 for a success, 1 at the start, 10 at the most). With the default
`max_break` of 60 s, failed probes double the break ("doubled breaks"): that spares a service that is down for long, and
recovers more slowly here. `standard()` waits for up to 9 s for an answer, where all others give up after 1 s.

Some rows have our policies at the server, too. "drops expired": the server drops requests whose deadline has passed, as
`ServerMiddleware` does with the deadlines that our transports send. "AdaptiveLimit": that policy with its defaults in
front of the server, without deadlines. Breakers of clients count its refusals as failures, so a client with a breaker
recovers later than one without. Dropping expired requests is known not to help without a budget ("4 attempts, drops
expired"): the queue is so long that a request expires while a worker handles it.
"""

from __future__ import annotations

import functools
import platform

from benchmarks.effect import storm_failures, storm_overload
from benchmarks.effect.storm_plot import draw_storm
from benchmarks.effect.storm_rows import BASE, CAP, LIMIT, TRIES, Plan
from benchmarks.harness.options import Options
from benchmarks.harness.report import Column, Report

__all__ = ["run"]

COLUMNS = (
    Column("success_percent", "success %", "{:.2f}"),
    Column("expected_success_percent", "expected", "{:.1f}"),
    Column("requests_per_call_x", "req/call", "{:.3f}"),
    Column("expected_requests_per_call_x", "expected", "{:.2f}"),
    Column("recovery_s", "recovery s", "{:.0f}"),
    Column("expected_recovery_s", "expected", "{:.0f}"),
    Column("goodput_share_x", "goodput", "{:.3f}"),
    Column("expected_goodput_share_x", "expected", "{:.2f}"),
)
QUICK = Plan(failing=5, rarely_failing=100, horizon=100, seeds=2, peers_shares=(0.5, 1.0))
FULL = Plan(failing=100, rarely_failing=100, horizon=240, seeds=6)


def run(options: Options) -> Report:
    """Simulate every row of both experiments, and return the report."""
    plan = QUICK if options.quick else FULL
    figures = storm_failures.figures(options, plan)
    overloads = storm_overload.simulated(options, plan)
    figures += [figure for row, runs in overloads.items() for figure in storm_overload.figures(row, runs)]
    conditions = {
        "python": platform.python_version(),
        "seed": options.seed,
        "overload_seeds": plan.seeds,
        "failing_load_s": plan.failing,
        "overload_horizon_s": plan.horizon,
        "attempts": TRIES,
        "attempt_limit_s": LIMIT,
        "backoff_base_s": BASE,
        "backoff_cap_s": CAP,
        "load_calls_per_s": storm_overload.RATE,
        "workers": storm_overload.WORKERS,
        "service_mean_s": storm_overload.MEAN,
    }
    plot = functools.partial(
        draw_storm,
        overloads={row.name: runs for row, runs in overloads.items()},
        shown=storm_overload.QUICKLY,
        stall=storm_overload.STALL,
        rate=storm_overload.RATE,
    )
    return Report("storm", COLUMNS, figures, conditions, plot=plot)
