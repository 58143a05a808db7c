"""Alerts on whole pipelines, and on the metrics themselves."""

from __future__ import annotations

from resilient.observe.dashboards.durations import HOUR, MINUTE
from resilient.observe.dashboards.expressions import ratio
from resilient.observe.dashboards.options import DashboardOptions
from resilient.observe.dashboards.rules import Alert, Group, query_of, subject

__all__ = ["pipeline_alerts"]


def pipeline_alerts(options: DashboardOptions) -> Group:
    """The alerts on pipelines, and on the metrics."""
    made = (
        *(_pipeline_not_on(options), _fallback_answers(options), _calls_hang(options)),
        *(_stragglers(options), _chaos_left_on(options)),
        *(_metrics_missing(options), _names_dropped(options)),
    )
    return Group("resilient-pipelines", (), made)


def _pipeline_not_on(options: DashboardOptions) -> Alert:
    query = query_of(options)
    mode = query.series("resilient.pipeline.mode", 'mode!="on"')
    return Alert(
        name="ResilientPipelineNotOn",
        expr=f"{query.total(mode, 'pipeline', 'mode')} > 0",
        wait=30 * MINUTE,
        severity="warning",
        summary=f'A pipeline has been in mode "{{{{ $labels.mode }}}}" for 30 minutes: {subject(options, "pipeline")}',
        description="In {{ $value }} processes.",
        means=(
            'It was switched by hand. "off": its function runs unguarded, and its calls are not counted, so no other'
            ' alert sees them. "once": no second attempts. "instant": no pauses between attempts, which is for tests.'
        ),
        look="Who switched it and why: the log of the incident. `registry.pipelines()` has the mode of each.",
        do='If the reason is over, switch it on again: `pipeline.switch("on")`, in each process.',
    )


def _fallback_answers(options: DashboardOptions) -> Alert:
    query = query_of(options)
    answered = query.total(query.rate("resilient.fallbacks"), "pipeline")
    many = query.total(query.increase("resilient.fallbacks"), "pipeline")
    return Alert(
        name="ResilientFallbackAnswers",
        expr=f"{ratio(answered, query.calls())} > 0.05\nand {many} >= 5",
        wait=15 * MINUTE,
        severity="warning",
        summary=f"Many answers are substitutes: {subject(options, 'pipeline')}",
        description="A Fallback answers {{ $value | humanizePercentage }} of the calls.",
        means=(
            "Calls fail, and callers get the answers of a Fallback. These count as successes, so the alerts on the"
            " error budget do not see them. Users see old or reduced data."
        ),
        look=(
            'The panel "Attempts by ending" of the dependency\'s dashboard: how the real calls end. Open circuits and'
            " refusals of the same pipeline."
        ),
        do="Restore the dependency. Announce that the data is old or reduced.",
    )


def _calls_hang(options: DashboardOptions) -> Alert:
    query = query_of(options, 10 * MINUTE)
    inside = query.total(query.series("resilient.calls.in_flight"), "pipeline")
    return Alert(
        name="ResilientCallsHang",
        expr=f"{inside} > 0 unless {query.calls()} > 0",
        wait=10 * MINUTE,
        severity="warning",
        summary=f"Calls are in flight, and none ends: {subject(options, 'pipeline')}",
        description="{{ $value }} calls are in flight, and no call has ended for at least ten minutes.",
        means=(
            "All calls of this pipeline hang: no answer, no error, no timeout. The alerts on the error budget count"
            " calls that have ended, so they see nothing."
        ),
        look=(
            "Whether the pipeline has a Timeout (`resilient explain` shows the worst case). Whether its calls may"
            " last so long: streams and long polls are in flight until their end."
        ),
        do=(
            "Give the pipeline a Timeout, and the client a read timeout. Restart the processes that hang. For long"
            " streams silence the alert."
        ),
    )


def _stragglers(options: DashboardOptions) -> Alert:
    query = query_of(options)
    left = query.total(query.series("resilient.stragglers"), "pipeline")
    inside = query.total(query.series("resilient.calls.in_flight"), "pipeline")
    return Alert(
        name="ResilientStragglersPileUp",
        expr=f"({left} > {inside}) >= 10",
        wait=15 * MINUTE,
        severity="warning",
        summary=f"Abandoned calls pile up: {subject(options, 'pipeline')}",
        description="{{ $value }} calls that no caller waits for still run: more than the calls in flight.",
        means=(
            "Losers of hedges, or calls that `Timeout(abandon=True)` has left behind, do not end. They hold threads,"
            " connections and memory, and load the dependency."
        ),
        look="Threads and connections of the processes. Which client call has no timeout of its own.",
        do="Give the client its own timeouts, so that abandoned calls end. Restart processes that run out of threads.",
    )


def _chaos_left_on(options: DashboardOptions) -> Alert:
    query = query_of(options, 10 * MINUTE)
    return Alert(
        name="ResilientChaosLeftOn",
        expr=f"{query.total(query.rate('resilient.faults'), 'pipeline', 'policy')} > 0",
        wait=HOUR,
        severity="info",
        summary=f"Chaos has injected faults for an hour: {subject(options, 'pipeline', 'policy')}",
        description='{{ $value | printf "%.2f" }} faults are injected in a second.',
        means="An experiment runs longer than most do. Its faults look like those of the dependency in all metrics.",
        look="Who runs it, and until when.",
        do='If it is over, deploy without its Chaos policy; at once: `pipeline.switch("off")` in each process.',
    )


def _metrics_missing(options: DashboardOptions) -> Alert:
    query = query_of(options)
    mode, before = query.series("resilient.pipeline.mode"), options.durations.window(HOUR)
    return Alert(
        name="ResilientMetricsMissing",
        expr=f"{query.total(f'{mode} offset {before}', of='count')} unless {query.total(mode, of='count')}",
        wait=10 * MINUTE,
        severity="warning",
        summary=f"The metrics of all pipelines are missing: {subject(options)}",
        description="An hour ago there were {{ $value }} series of pipelines. Now there are none.",
        means=(
            "No process exports metrics, so no other alert of resilient can fire. All processes are down, cannot be"
            " scraped, or run a version without the exporter. The alert ends by itself an hour after they were last"
            " seen."
        ),
        look="`up` of the job, the page of targets in Prometheus, the last deployment.",
        do="Restore the scrapes. If the job was removed, or runs only now and then, silence the alert.",
    )


def _names_dropped(options: DashboardOptions) -> Alert:
    query = query_of(options)
    return Alert(
        name="ResilientPipelineNamesDropped",
        expr=f"{query.total(query.series('resilient.pipelines.dropped'))} > 0",
        wait=15 * MINUTE,
        severity="info",
        summary=f"There are too many names of pipelines: {subject(options)}",
        description='{{ $value }} names are beyond the cap of a process. They are summed in pipeline="other".',
        means="Names are made at run time: from users, URLs or keys. Metrics of single pipelines are lost.",
        look="The names in the metrics: what varies in them.",
        do="Give pipelines fixed names, and use Keyed for what varies.",
    )
