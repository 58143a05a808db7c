"""Prometheus: the library's own figures as metrics of prometheus-client, read at each scrape.

    from prometheus_client import start_http_server
    from resilient.observe.prometheus import register

    register()                      # into prometheus_client.REGISTRY
    start_http_server(9100)         # or mount prometheus_client.make_asgi_app() in your application

A scrape reads plain integers that the policies count anyway, so no call is slowed down by metrics of counters and
gauges. Durations are recorded from `register` on, and cost each call a little (`durations=None` leaves them out). The
metrics are those of `resilient.observe.metrics.TABLE`.

**Buckets.** Durations are histograms with classic buckets, by default at powers of two from 1/1024 s (about 1 ms) to
64 s. The figures are recorded on a grid of 32 edges per factor of two, so a classic bucket can end only on this grid:
each of `buckets=` is moved up to the next edge, by 2.2% at most (0.3 becomes 0.303825).

**Exemplars.** Failed calls, and calls that took `slow` seconds or more, leave an exemplar with the identifiers of the
current OpenTelemetry span, if it is sampled. They appear in the OpenMetrics format only, which Prometheus asks for
with `--enable-feature=exemplar-storage`.

**Several processes** (gunicorn). If PROMETHEUS_MULTIPROC_DIR is set, `register` in each process, or once before
forking, also writes the figures of the process into the client's files, where `MultiProcessCollector` of any process
sums them up. A thread writes them every `interval` seconds, so a scrape is up to `interval` seconds old; `flush()`
writes them at once. The last figures are written when the interpreter or a child of `multiprocessing` ends; a process
that is killed loses those since the last writing. Counters and histograms of a dead process stay in the sum.
Gauges that count something (calls in flight, permits, open circuits) are summed over the processes that live; rates,
modes and delays have a series for each process, with a label `pid`. As with the client's own gauges, those of a killed
process remain until `prometheus_client.multiprocess.mark_process_dead(pid)` is called (in gunicorn's `child_exit`).
Exemplars and `_created` do not exist in these files, as for the client's own metrics. A server that runs Python
without threads (uWSGI without `enable-threads`) must call `flush()` itself.

registration      register: one collector in one registry, and the function that ends it
collector         ResilientCollector: what a scrape reads
families          the figures as families of prometheus-client
buckets           the bounds of classic histogram buckets
exemplars         the labels of exemplars: from the current span, or a function
internal_errors   errors inside a scrape: counted, and logged once
multiprocess      the client's files of this process, and what is written into them
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
