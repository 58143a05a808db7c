"""The same policies under HTTP clients: transports that a client takes as its own.

semantics        what HTTP says about methods, headers and origins
classify         what the outcome of a request was, and whether it may be sent again
lifecycle        when a response has ended, and what frees its connection before that
bodies           bodies of responses, each of which adds one thing to a client's own body
reading          reads the body of a response as a part of the attempt
request_bodies   bodies of requests, which may have to be sent again
streams          the classes of bodies for one client library
library          a client library, as all that needs it: its streams, its errors, and whether its client reads a body
options          what a transport's user, and a request for itself, may ask for
transport        what every transport does with its pipeline
async_transport  one request and one attempt of an asynchronous client
sync_transport   the same of a plain client
client           how a whole client is fitted out
connections      a client's own connections, mended for requests that are cut short
http2            one HTTP/2 connection of them: its streams, and who waits for one
sockets          steps of a connection that a cancellation cannot tear
chaos            what every chaos transport does
delegate         what all of them pass on to the transport, and the body, that they go around
httpx            all that for httpx; the modules above import no client
httpx2           the same for httpx2
asgi             the middleware of `resilient.server`, under its former path
"""
