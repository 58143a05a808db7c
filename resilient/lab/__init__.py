"""The lab: the real policy objects against scripted outages, in virtual time.

    distributions   how long work takes
    service         servers with workers and queues, and what happens to them
    load            who calls, and when
    calls           what calls are made with and answered, where policies look at that
    http            calls that are requests of httpx, through the transports of production
    world           one run: clients, their pipelines, a service, a clock that jumps
    premises        what a world must name so that a run can say something
    reading         a world as a file
    subject         what is examined: pipelines, and whatever has one
    naming          that by its name
    candidates      the pipelines that are tried in it
    twins           policies made anew, that do nothing in production
    measures        what came of it: success, latency, requests, recovery; and over time
    recovery        when a service is well again after its faults, and when that cannot be measured
    verdicts        objectives: met, missed, or not measurable; and what was not tested
    picture         that as a picture
    simulate        `resilient simulate`
    explain         what a pipeline does to a call at worst, without running it: `resilient explain`

`resilient.lab.world` says how to run one from Python.
"""
