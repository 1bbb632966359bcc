"""Which names the server answers to, against pages elsewhere that point a name of theirs at this machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


def is_loopback(host: str) -> bool:
    """Whether what listens on `host` is reached from this machine alone.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """Names a Host header may hold, lower-case and without a port; None takes any."""

    allowed: frozenset[str] | None

    def admit(self, header: bytes | None) -> bool:
        """Whether a Host header names this server."""
        if self.allowed is None:
            return True
        return _name((header or b"").decode("latin-1")) in self.allowed


def hosts_of(bound: str, *, more: Sequence[str] = ()) -> Hosts:
    """The names for an address that is bound: loopback's, or any elsewhere, unless `more` tells them.

    >>> hosts_of("127.0.0.1").admit(b"localhost:8000"), hosts_of("127.0.0.1").admit(b"evil.example")
    (True, False)
    """
    named = frozenset(_name(host) for host in more)
    if not named and not is_loopback(bound):
        return Hosts(allowed=None)
    own = f"[{bound}]" if ":" in bound.strip("[]") and not bound.startswith("[") else bound
    return Hosts(allowed=LOOPBACK | named | {own.lower()})


def _name(header: str) -> str:
    """A Host header without its port and the root's dot; an IPv6 address keeps its brackets."""
    text = header.strip().lower()
    if text.startswith("["):
        return text.partition("]")[0] + "]"
    return text.partition(":")[0].rstrip(".")
