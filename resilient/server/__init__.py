"""Deadlines, admission and priorities in front of an ASGI application.

asgi           the middleware
admission      the policies around its limit
request        one request: its deadline, its body, what the application sends, and how it ends
request_trio   the same under trio
held           the pipeline, held while the application handles a request
upload         the body of a request on its way in
"""
