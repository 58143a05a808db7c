"""Tools for tests of your own resilience: virtual time, a dependency that follows a script, and a record of the events.

    @pytest.mark.virtual_time                                  # ten minutes of backoff take no time
    async def test_survives_an_outage():
        users = Dependency(OSError("down"), Hang(), default="Ada")
        get_user = pipeline(users)
        with record(pipeline) as recorder:
            assert await get_user(7) == "Ada"
        recorder.assert_happened(Retrying, times=2)
        assert now() < 5

    clock       now, advance: the time of a test
    script      Dependency, Hang, Slow: a dependency whose answers are scripted, call by call
    recorder    record: the events of a test, with assertions

Virtual time comes by `@pytest.mark.virtual_time` (needs pytest-asyncio 1.5), by `run(main())`, or by `VirtualLoop`
where a loop factory is taken. It works for all asyncio code, tenacity's included. Real I/O and threads end the test
with a `resilient.VirtualTimeError`, which no handler can hide. The marker is in the module `resilient_pytest`; nothing
here needs pytest.

Plain code has no virtual time: there `with resilient.switch("instant"): ...` leaves out all waits between attempts.
"""

from resilient.runtime.virtual import VirtualLoop, run
from resilient.testing.clock import advance, now
from resilient.testing.recorder import Recorder, record
from resilient.testing.script import Dependency, Hang, Received, Slow

__all__ = [
    "Dependency",
    "Hang",
    "Received",
    "Recorder",
    "Slow",
    "VirtualLoop",
    "advance",
    "now",
    "record",
    "run",
]
