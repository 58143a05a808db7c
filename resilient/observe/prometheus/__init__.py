"""Prometheus: the library's own figures as metrics of prometheus-client, read at each scrape.

    from prometheus_client import start_http_server
    from resilient.observe.prometheus import register

    register()                      # into prometheus_client.REGISTRY
    start_http_server(9464)         # or mount prometheus_client.make_asgi_app() in your application

A scrape reads plain integers that pipelines count in any case, so counters and gauges cost a call nothing. Durations
are recorded from `register` on, and cost each call a little (`durations=None` leaves them out). The metrics are those
of `resilient.observe.metrics.TABLE`, and `resilient_scrape_errors_total`, which counts the errors of this exporter.

**Buckets.** Durations are histograms with classic buckets, by default at powers of two from 1/1024 s (about 1 ms) to
64 s. They are recorded on a grid of 32 bounds per factor of two, and a classic bucket can end only on this grid: each
of `buckets=` is moved up to the next bound of it, by 2.2% at most (0.3 becomes 0.303812).

**Exemplars.** Failed calls, and calls that took `slow` seconds or more, leave an exemplar with the identifiers of the
current OpenTelemetry span, if it is sampled. They appear in the OpenMetrics format only. Prometheus stores them if it
runs with `--enable-feature=exemplar-storage`.

**Several processes** (gunicorn). If PROMETHEUS_MULTIPROC_DIR is set, `register` also writes the figures of the process
into files of the client, which `MultiProcessCollector` of any process sums up. Call it in each process (in gunicorn's
`post_fork`), or once before they are forked; then the parent is one of the processes, too. A thread writes them every
`interval` seconds, so figures in a scrape are up to `interval` seconds old; `flush()` writes them at once. They are
written for the last time when the interpreter or a child of `multiprocessing` ends. A process that is killed loses what
it counted since the last writing. For the sums:

- Counters and histograms of a process that has ended stay in them.
- Gauges that count something (calls in flight, permits, open circuits) are summed over the processes that live. Rates,
  modes and delays have a series for each process, with a label `pid`. Gauges of a process that was killed remain until
  `prometheus_client.multiprocess.mark_process_dead(pid)` is called (in gunicorn's `child_exit`), as for metrics of the
  client's own.
- Exemplars and `_created` are not in the files, as for metrics of the client's own.
- A policy has at most 10 x `keys` keys in the files of a process; later ones count as "other".

A server that runs Python without threads (uWSGI without `enable-threads`) must call `flush()` itself.

registration      register: one collector in one registry, and the function that ends it
collector         ResilientCollector: what a scrape reads
families          the figures as families of prometheus-client
buckets           the bounds of classic histogram buckets
exemplars         the labels of exemplars: from the current span, or a function
internal_errors   errors inside a scrape: counted, and logged once
multiprocess      multiprocess mode: whether it is on and can work, and one writer for a process
files             the values of this process in the client's files
writer            the thread that writes the files, through forks and until the process ends
"""

try:
    import prometheus_client as _  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "prometheus_client":
        raise
    raise ImportError(
        'resilient.observe.prometheus needs prometheus-client: pip install "resilient-middleware[prometheus]"'
    ) from error

from resilient.observe.prometheus.collector import ResilientCollector
from resilient.observe.prometheus.registration import flush, register

__all__ = ["ResilientCollector", "flush", "register"]
