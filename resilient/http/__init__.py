"""The same policies under HTTP clients: transports that a client takes as its own.

semantics      what HTTP says about methods, statuses, pauses and origins
judgement      what the outcome of a request was, and whether it may be sent again
bodies         bodies that are sent again, and bodies that end badly
transport      what every transport does with its pipeline
httpx, httpx2  transports for the clients of that name; the others import no client
"""
