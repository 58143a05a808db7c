"""Benchmarks of the library's cost, and the tables and plots of their committed runs.

overhead           time that a policy adds to a call that needs none
smoke              `overhead` in half a minute, compared with the committed run
transport          time that a transport adds to an HTTP request
middleware         processor time that the server middleware adds to a request
middleware_server  the server of `middleware`, and the client that keeps it busy
scale              time of a call beside up to 100,000 calls in flight or keys
scale_plot         the plot of `scale`
memory             the memory rows of `scale`: bytes of a breaker, a key and a call in flight
startup            time of imports and of decorating functions
observe            time that counters, exporters, listeners and spans add to a call
lab                simulated calls per second
highlights         the rows of `overhead` that README.md shows, and their plot
tables             the Markdown tables of README.md and docs/performance.md
"""
