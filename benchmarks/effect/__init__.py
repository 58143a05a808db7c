"""Benchmarks of the effect of policies, beside published results and peers.

storm              retries, budgets and breakers against a failing and an overloaded service, in virtual time
storm_rows         the policies of the clients in `storm`, ours and the peers'
storm_failures     experiment E3 of `storm`: attempts fail
storm_overload     experiment E4 of `storm`: an overload that outlasts its trigger
storm_plot         the plot of `storm`
metastable         E4 with real servers and clients
metastable_plot    the plot of `metastable`
metastable_server  the server of `metastable`: a bounded pool of workers
tail               the effect of hedges on the tail of latency, in virtual time
tail_under_load    the rows of `tail` whose copies take time of servers with queues
queueing           servers with queues, for `tail_under_load`
latencies          the latency distributions of `tail`
hedging            hedging transports over loopback, ours beside the peers'
hedging_plot       the plot of `hedging`
hedging_server     the server of `hedging`: it sleeps, fails now and then, and counts
connections        whether hedged clients lose connections, for `hedging`
limits             adaptive limits beside fixed limits and published algorithms, in virtual time
limits_plot        the plot of `limits`
"""
