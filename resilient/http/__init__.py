"""The same policies under HTTP clients: transports that a client takes as its own.

semantics      what HTTP says about methods, statuses, pauses and origins; no client is imported
transport      what every transport does with its pipeline
httpx          transports for httpx clients
"""
