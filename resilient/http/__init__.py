"""Policies under HTTP clients: transports that a client uses in place of its own.

httpx            the transports, clients and chaos transports for httpx
httpx2           the same for httpx2; the modules below import no client library
transport        the transport for any client library: its pipeline, and the attempts that a request may have
async_transport  one request and one attempt of an asynchronous client
sync_transport   the same of a plain client
client           puts transports into a whole client, with a pipeline and timeouts that suit it
options          the options of a transport, and those of a single request
time_limits      the time limits of a request: its attempts', its own, and the client's timeouts
classify         classifies the outcome of a request, and decides whether it may be sent again
semantics        the rules of HTTP about methods, headers and origins
lifecycle        when a response has ended, and how its connection is freed before that
bodies           the bodies of responses, each of which adds one thing to the client's own body
reading          reads the body of a response as a part of the attempt
request_bodies   the bodies of requests, which may have to be sent again
streams          the classes of bodies for one client library
library          the parts of one client library that transports use: streams, errors, whether its client reads the body
delegate         the base classes of transports around another one, and of bodies around the client's own
connections      repairs of a client's connection pool, for requests that are cancelled
http2            repairs of one HTTP/2 connection: its streams, and the queue for them
sockets          coroutines of a connection without the event loop's turns, so that a cancellation cannot split them
chaos            the chaos transport for any client library: faults on purpose
chaos_bodies     bodies that break off or arrive slowly, for the chaos transports
asgi             the middleware of `resilient.server`, under its former path
"""
