"""The registry finds named pipelines as long as something refers to them."""

from __future__ import annotations

import gc
import threading

import pytest

from resilient import Bulkhead, Pipeline, Retry, Timeout, registry


def test_named_pipeline_is_found() -> None:
    """A named pipeline is found by its name, as the same object."""
    pipeline = Pipeline(Retry(), name="found")
    assert registry.pipeline("found") is pipeline
    assert registry.pipelines()["found"] is pipeline


def test_unnamed_pipeline_is_not_registered() -> None:
    """Neither is one that a policy makes to be a decorator alone."""
    before = registry.pipelines()
    pipeline, guarded = Pipeline(Retry()), Retry()(len)
    assert registry.pipelines() == before
    del pipeline, guarded


def test_pipelines_are_in_order_of_their_names() -> None:
    """All pipelines are listed in the order of their names."""
    made = [Pipeline(Retry(), name=f"ordered {letter}") for letter in "bca"]
    assert [name for name in registry.pipelines() if name.startswith("ordered")] == [
        "ordered a",
        "ordered b",
        "ordered c",
    ]
    assert len(made) == 3


def test_pipeline_that_nobody_uses_is_forgotten() -> None:
    """At once: the registry keeps nothing alive."""
    pipeline = Pipeline(Timeout(5), Retry(), Bulkhead(5), name="forgotten")
    pipeline.call(lambda: None)
    del pipeline
    assert "forgotten" not in registry.pipelines()


def test_pipeline_is_found_while_a_guarded_function_lives() -> None:
    """A guarded function uses its pipeline, whatever became of the variable."""
    guarded = Pipeline(Retry(), name="in a function")(lambda: 7)
    gc.collect()
    assert registry.pipeline("in a function").call(guarded) == 7


def test_pipeline_is_found_while_an_outer_one_lives() -> None:
    """A pipeline is found as long as a pipeline lives that contains it."""
    outer = Pipeline(Timeout(5), Pipeline(Retry(), name="nested"))
    gc.collect()
    assert registry.pipeline("nested") is outer.policies[1]


def test_second_pipeline_of_a_name_takes_the_place_of_the_first() -> None:
    """A second pipeline of a name replaces the first, and stays when the first is gone."""
    first = Pipeline(Retry(), name="replaced")
    second = Pipeline(Retry(), name="replaced")
    assert registry.pipeline("replaced") is second
    del first
    gc.collect()
    assert registry.pipeline("replaced") is second


def test_variation_does_not_take_the_place_of_its_original() -> None:
    """Unless it has a name of its own, under which it is found as well."""
    original = Pipeline(Retry(), name="original")
    same_name, other_name = original.with_(), original.with_(name="variation")
    assert registry.pipeline("original") is original
    assert registry.pipeline("variation") is other_name
    assert same_name.name == "original"


def test_name_that_is_not_there_raises_key_error_with_those_that_are() -> None:
    """An unknown name raises KeyError with the known names."""
    pipelines = [Pipeline(Retry(), name="users"), Pipeline(Retry(), name="orders")]
    with pytest.raises(KeyError, match=r"no pipeline is called 'user'; there are: .*orders.*, .*users"):
        registry.pipeline("user")
    assert len(pipelines) == 2


def test_snapshots_have_the_state_of_every_named_pipeline() -> None:
    """Snapshots have, by name, what `Pipeline.snapshot` returns."""
    pipeline = Pipeline(Bulkhead(3), name="seen")
    assert registry.snapshots()["seen"] == pipeline.snapshot()


def test_registry_can_be_read_while_other_threads_build_pipelines() -> None:
    """Operations look at it at any time."""
    over = threading.Event()
    errors: list[Exception] = []

    def build(number: int) -> None:
        at = 0
        kept: list[Pipeline] = []
        try:
            while not over.is_set():
                at += 1
                kept.append(Pipeline(Retry(), name=f"thread {number} {at}"))
                del kept[:-50]
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=build, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            registry.pipelines()
            registry.snapshots()
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert errors == []
