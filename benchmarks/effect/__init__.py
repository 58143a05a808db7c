"""Benchmarks of what the policies achieve, beside published results and peers.

storm              retries, budgets and breakers against a failing and an overloaded service, in virtual time
storm_plot         the plot of `storm`
metastable         an overload that outlasts its trigger, with real servers and clients
metastable_plot    the plot of `metastable`
metastable_server  the server of `metastable`: a bounded pool of workers
tail               what hedges do to the tail of latency, in virtual time
queueing           servers with queues, for the hedges under load of `tail`
hedging            hedging transports over loopback, ours beside the peers'
hedging_plot       the plot of `hedging`
hedging_server     the server of `hedging`: sleeps, fails now and then, and counts
connections        whether hedged clients lose connections, for `hedging`
limits             adaptive limits beside fixed limits and published algorithms, in virtual time
limits_plot        the plot of `limits`
"""
