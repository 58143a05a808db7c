"""Deadlines, admission and priorities in front of an ASGI application.

asgi           `ServerMiddleware`
admission      the policies around its limit: a request's deadline, and the wait for its body
request        the states of one request, on asyncio
request_trio   the same under trio
held_call      the call of a pipeline, suspended while the application handles the request
passed_on      a request that is only counted, because nothing is limited
upload         the body of a request, while it arrives
"""
