"""The lab: the real policy objects against scripted outages, in virtual time.

A world, as data:

    distributions     durations of work
    load              calls of clients, and their times
    service_plan      a service: servers, workers, queues, the network
    calls             arguments and answers of calls, where policies look at them
    scenario          all of it: loads, a service, faults, and the pipelines to try
    scenario_checks   scenarios that could not show anything, and are refused

as a file:

    scenario_file     a scenario from its file
    table             tables that are read strictly, key by key
    calls_table       the table `[calls]`
    pipeline_table    the tables `[pipelines.NAME]`
    files             files that are bounded when they are read, and written whole or not at all

The pipelines that are tried in it:

    candidates        a pipeline to try, and how a new one is made for each client
    fresh_policies    new policies with the settings of production, and without its effects

One run:

    world             clients, their pipelines, a service, a clock that jumps: `simulate`
    event_loop        its event loop, in virtual time
    http              calls that are requests of httpx, through the transports of production
    service           requests on their way: the network, the faults, the servers
    server            one server: workers and a queue
    admission         the policies in front of a server
    request           one request
    answers           the answers of the service, and the errors with which a call ends
    policy_states     the state of the policies at a moment
    run               the record of the run

The results:

    comparison        several pipelines in one scenario
    measures          success, latency, requests, recovery; and over time
    percentile        percentiles by nearest rank
    recovery          when a service has recovered from its faults, and when that cannot be measured
    objectives        bounds on measures: met, missed, or not measurable; and what was not tested
    estimate          the time and memory that a simulation takes, before it begins
    plot              a plot over time
    image_files       figures as PNG, SVG or PDF

A recorded trace as a scenario:

    replay            the load of the trace, and a service that answers as the recorded one did
    recorded_errors   the errors of the trace, as exceptions
    trace_report      the report on the recorded calls and their errors

A former path:

    explain           the former path of `resilient.explain`

`resilient.lab.world` says how to run a world from Python.
"""
