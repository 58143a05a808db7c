"""The lifecycle of results and the options of calls: plain ones by default, others in derived pipelines."""

from __future__ import annotations

import httpx

from resilient import Classifier, Pipeline, Retry, Timeout
from resilient.core.call_options import NO_OPTIONS, CallOptions
from resilient.core.lifecycle import PLAIN_RESULTS, ResultLifecycle
from resilient.http.httpx import AsyncTransport
from resilient.http.lifecycle import ResponseLifecycle
from resilient.http.options import RequestOptions


class Rows(ResultLifecycle):
    """The lifecycle of another kind of results."""


class Queries(CallOptions):
    """The options of another kind of calls."""


def held(pipeline: Pipeline) -> tuple[ResultLifecycle, CallOptions]:
    """The lifecycle and the options that a pipeline's context holds."""
    return pipeline._context.lifecycle, pipeline._context.call_options


def test_pipeline_has_the_lifecycle_of_plain_results_and_calls_without_options() -> None:
    """All pipelines share one default lifecycle and one default object of options."""
    assert held(Pipeline(Retry())) == (PLAIN_RESULTS, NO_OPTIONS)


def test_derived_pipeline_keeps_lifecycle_and_options_unless_it_is_given_others() -> None:
    """A derived pipeline has the same kind of results and calls, unless it is told otherwise."""
    rows, queries = Rows(), Queries()
    derived = Pipeline(Retry())._derive((Retry(),), lifecycle=rows, call_options=queries)
    assert held(derived) == held(derived._derive((Retry(),))) == (rows, queries)


def test_variation_of_a_pipeline_keeps_lifecycle_and_options_unless_it_is_given_a_classifier() -> None:
    """A new classifier may be for results of another kind, so the variation starts with the default lifecycle."""
    rows, queries = Rows(), Queries()
    derived = Pipeline(Retry())._derive((Retry(),), lifecycle=rows, call_options=queries)
    assert held(derived.with_(Retry(2))) == (rows, queries)
    assert held(derived.with_(Retry(2), classify=Classifier())) == (PLAIN_RESULTS, NO_OPTIONS)


def test_transport_gives_its_pipeline_the_lifecycle_of_responses_and_the_options_of_requests() -> None:
    """Nested pipelines get them, too; the user's own pipelines do not change."""
    inner = Pipeline(Timeout(1))
    pipeline = Pipeline(Retry(3), inner)
    transport = AsyncTransport(pipeline, transport=httpx.MockTransport(lambda request: httpx.Response(200)))
    (nested,) = [each for each in transport.pipeline.policies if isinstance(each, Pipeline)]
    for each in (transport.pipeline, nested):
        assert [type(part) for part in held(each)] == [ResponseLifecycle, RequestOptions]
    assert held(pipeline) == held(inner) == (PLAIN_RESULTS, NO_OPTIONS)


def test_transport_keeps_the_lifecycle_of_a_pipeline_that_another_transport_derived() -> None:
    """A body is followed once, although two transports use the pipeline."""
    answer = httpx.MockTransport(lambda request: httpx.Response(200))
    first = AsyncTransport(Pipeline(Retry()), transport=answer)
    second = AsyncTransport(first.pipeline, transport=answer)
    assert held(first.pipeline) == held(second.pipeline)


def test_plain_results_are_never_open() -> None:
    """The lifecycle of plain results does nothing when a call succeeds."""
    assert not PLAIN_RESULTS.may_be_open
    assert not PLAIN_RESULTS.is_open(object())
