"""The middleware of `resilient.server.asgi`, under its former path."""

from resilient.server.asgi import HEALTH_CHECKS, ErrorAnswer, ServerMiddleware, Shared

__all__ = ["HEALTH_CHECKS", "ErrorAnswer", "ServerMiddleware", "Shared"]
