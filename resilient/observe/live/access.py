"""Decides which requests the live page answers.

a client that is not on this machine    403, unless its network is in `allow`
a client behind a proxy                 403, unless the network of the proxy is in `allow`: `X-Forwarded-For` and
                                        its like are never believed, and a proxy on this machine hides its clients
a Host that is a name                   403, unless it is localhost or in `hosts`: the owner of another name can let
                                        it lead to this machine, and has then a page of the same origin (DNS rebinding).
                                        An address as Host is no name, so it cannot be rebound
a request of another site               403, except a link to the page (by `Sec-Fetch-Site` and `Origin`)
a POST without the token of the page    403
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

__all__ = ["Access", "Refused"]

LOCAL = "unix"
"""The entry of `allow` for clients that come through a Unix socket, and so have no address."""

FORWARDED = (b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip")
"""The header fields by which a proxy shows itself."""

ONCE = (b"host", b"origin", b"sec-fetch-site", b"x-resilient-token", b"content-type")
"""The header fields that a request may not repeat: the server and the proxy before it could read different ones."""

_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9A-Za-z_.-]+))(?::[0-9]{1,5})?")


class Refused(Exception):
    """A request that gets an error as its answer.

    Attributes:
        status: of the answer.
        text: of the answer, for people.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Access:
    """The rules of one `LiveView`, with its token.

    Args:
        allow, hosts: as for `LiveView`.
    """

    def __init__(self, allow: Iterable[str], hosts: Iterable[str]) -> None:
        allowed = _texts("allow", allow, '["10.0.0.0/8"]')
        self._networks = [_network(each) for each in allowed if each != LOCAL]
        self._sockets = LOCAL in allowed
        self._hosts = {_name(each) for each in _texts("hosts", hosts, '["live.example.com"]')}
        self.token = secrets.token_urlsafe(24)
        """The token that a POST needs in the header field `X-Resilient-Token`. The page has it; other sites cannot read
        the page."""

    def check(self, scope: Any) -> dict[bytes, bytes]:
        """Return the header fields of a request to be answered. Raises `Refused` for any other."""
        fields: dict[bytes, bytes] = {}
        for sent, value in scope["headers"]:
            name = sent.lower()
            if name in fields and name in ONCE:
                raise Refused(400, f"The header field {name.decode('latin-1')} is there twice.")
            fields[name] = value
        self._check_client(scope.get("client"), fields)
        host = fields.get(b"host", b"").decode("latin-1").lower()
        self._check_host(host)
        self._check_site(scope, fields, host)
        return fields

    def check_token(self, fields: dict[bytes, bytes]) -> None:
        """Raise `Refused` for a POST without the token."""
        if not hmac.compare_digest(fields.get(b"x-resilient-token", b""), self.token.encode()):
            raise Refused(
                403,
                "The token is missing or not of this process: load the page again. With several worker processes each "
                "has a page of its own: give the live page a server with one process.",
            )

    def _check_client(self, client: Any, fields: Collection[bytes]) -> None:
        if not client:
            if not self._sockets:
                raise Refused(403, 'This client has no address. For clients of a Unix socket give allow=["unix"].')
            return
        address = _address(client[0])
        if address is not None and any(address in network for network in self._networks):
            return
        if address is None or not address.is_loopback:
            raise Refused(403, f"Only clients on this machine are served, not {client[0]!r}: see allow=.")
        if any(name in fields for name in FORWARDED):
            raise Refused(
                403,
                "This request came through a proxy, and X-Forwarded-For is not believed. To serve every client of the "
                f'proxy, give allow=["{address}"].',
            )

    def _check_host(self, host: str) -> None:
        found = _HOST.fullmatch(host)
        if found is None:
            raise Refused(400, "The header field Host is missing or no host.")
        inside, name = found.groups()
        if _address(inside or name) is not None:
            return
        name = "" if name is None else name.rstrip(".")
        if name != "localhost" and not name.endswith(".localhost") and name not in self._hosts:
            raise Refused(403, f"The page is not served under the name {name!r}: see hosts=.")

    def _check_site(self, scope: Any, fields: dict[bytes, bytes], host: str) -> None:
        site, origin = fields.get(b"sec-fetch-site"), fields.get(b"origin")
        is_link = scope["method"] in ("GET", "HEAD") and fields.get(b"sec-fetch-mode") == b"navigate"
        if site not in (None, b"same-origin", b"none") and not is_link:
            raise Refused(403, "Requests of other sites are refused.")
        if origin is not None and origin.decode("latin-1").lower().partition("://")[2] != host:
            raise Refused(403, "Requests of other origins are refused.")


def _texts(argument: str, values: Iterable[str], example: str) -> list[str]:
    found = values if isinstance(values, str | bytes) else list(values)
    if isinstance(found, str | bytes) or not all(isinstance(each, str) for each in found):
        raise TypeError(f"{argument} must be a list of texts, as {argument}={example}, got {values!r}")
    return found


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f'allow must have addresses and networks ("192.0.2.7", "10.0.0.0/8") or "unix", got {text!r}'
        ) from None


def _name(text: str) -> str:
    found = _HOST.fullmatch(text)
    if found is None or found.group(2) != text:
        raise ValueError(f'hosts must have names without scheme and port ("live.example.com"), got {text!r}')
    return text.lower().rstrip(".")


def _address(text: object) -> IPv4Address | IPv6Address | None:
    """Return an address, an IPv4 address inside IPv6 as such; None for anything else."""
    try:
        address = ip_address(str(text).partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
