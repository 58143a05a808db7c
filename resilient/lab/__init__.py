"""The lab: the real policy objects against scripted outages, in virtual time.

A world, as data:

    distributions     how long work takes
    load              who calls, and when
    service_plan      what a service is like: servers, workers, queues, the network
    calls             what calls are made with and answered, where policies look at that
    scenario          all of it: loads, a service, faults, and the pipelines that are worth a try
    premises          what a scenario must name so that a run can say something

as a file:

    tables            tables that are read strictly, key by key
    reading           a scenario from its file
    call_tables       its `[calls]`
    pipeline_tables   its `[pipelines.NAME]`
    files             files that are bounded when they are read, and written whole or not at all

What is tried in it:

    subject           what is examined: pipelines, and whatever has one
    naming            that by its name, `MODULE:NAME`
    candidates        the pipelines that are tried
    twins             policies made anew, that do nothing in production
    blame             errors of a user's own code, in one line

One run:

    clock             the event loop of a world
    world             clients, their pipelines, a service, a clock that jumps
    http              calls that are requests of httpx, through the transports of production
    service           what becomes of requests
    server            one server of it, and the policies in front of it
    samples           the state of policies at a moment

What came of it:

    measures          success, latency, requests, recovery; and over time
    recovery          when a service is well again after its faults, and when that cannot be measured
    verdicts          objectives: met, missed, or not measurable; and what was not tested
    picture           a picture over time
    figures           pictures as files

`resilient simulate`:

    simulate          the command
    estimate          what it will take
    terminal          what it shows
    replay            a recorded trace as a scenario
    recorded          what is told of a trace beside a simulation
    standins          the errors of a trace, made again

`resilient explain`, without running anything:

    explain_command   the command
    explain           what a pipeline does to a call at worst
    long_run          what its budgets make of many calls
    drawing           that as text, data and a diagram

`resilient.lab.world` says how to run a world from Python.
"""
