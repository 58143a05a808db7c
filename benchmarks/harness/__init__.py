"""How measurements are taken, judged, printed and plotted. These modules refer to no policy.

measure     times calls in interleaved rounds, as multiples of a bare call
processes   runs a function in several fresh processes
statistics  medians and quantiles with their 95% intervals
loopback    measures a client in pairs with the plain client, against a uvicorn server over loopback
prometheus  a real Prometheus and a real Alertmanager, while something is measured
options     the options of the command line, and the progress bar
report      figures, bars, the printed table and the JSON
plot        draws a report as bars, or by `curves`
curves      draws a report that has curves
"""
