"""Objects that several pipelines share emit their events on the channel of each."""

import gc

from resilient.events import Event, LimitChanged, listen
from resilient.events.channel import Channel, Emitter


def emitted(emitter: Emitter) -> None:
    emitter._emit(LimitChanged, 1.0, "limit", 20, 22, "why")


def test_event_goes_to_the_channel_of_each_pipeline() -> None:
    """Each event carries the name of its pipeline."""
    emitter, channels, heard = Emitter(), [Channel("one"), Channel("other")], list[Event]()
    for channel in channels:
        emitter._attach(channel)
        channel.listen(heard.append)
    emitted(emitter)
    assert heard == [LimitChanged(name, 1.0, "limit", 20, 22, "why") for name in ("one", "other")]


def test_channel_that_is_attached_twice_gets_an_event_once() -> None:
    """A channel that is attached twice gets each event once."""
    emitter, channel, heard = Emitter(), Channel("one"), list[Event]()
    channel.listen(heard.append)
    emitter._attach(channel)
    emitter._attach(channel)
    emitted(emitter)
    assert len(heard) == 1


def test_emitter_keeps_no_pipeline_in_memory() -> None:
    """It refers to channels weakly, and drops references to collected ones when the next channel is attached."""
    emitter, kept = Emitter(), Channel("kept")
    emitter._attach(Channel("collected"))
    gc.collect()
    emitter._attach(kept)
    assert emitter._attached() == [kept]
    assert len(emitter._channels) == 1


def test_listener_of_all_pipelines_gets_an_event_once_from_pipelines_of_one_name() -> None:
    """As from a pipeline and its variations by `with_`, which share their policies."""
    emitter, channels, heard = Emitter(), [Channel("one"), Channel("one"), Channel("other")], list[Event]()
    for channel in channels:
        emitter._attach(channel)
    stop = listen(heard.append, LimitChanged)
    emitted(emitter)
    stop()
    assert heard == [LimitChanged(name, 1.0, "limit", 20, 22, "why") for name in ("one", "other")]
