"""Who may ask: keys, compared in constant time and never shown."""

import hmac
from dataclasses import dataclass, field
from typing import Literal

from deltagram.errors import SettingError

_SHORTEST = 8
Verdict = Literal["pass", "missing", "wrong", "off"]


@dataclass(frozen=True, kw_only=True)
class Keys:
    """`api` opens what answers requests, None leaves that open; `admin` opens everything, None turns its part off.

    Raises SettingError for a key that is short or that an HTTP header cannot carry.
    """

    api: str | None = field(default=None, repr=False)
    admin: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for option, key in (("--api-key", self.api), ("--admin-key", self.admin)):
            if key is None:
                continue
            if len(key) < _SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
                raise SettingError(
                    option,
                    "the key is too short, or holds what a header cannot carry",
                    expected=f"at least {_SHORTEST} printable ASCII characters without spaces",
                    fix="such as the output of `openssl rand -hex 24`",
                )

    def verdict(self, authorization: bytes | None, *, admin: bool) -> Verdict:
        """What an Authorization header opens. "off": no key opens it, as none was set."""
        opening = [key for key in ((self.admin,) if admin else (self.api, self.admin)) if key is not None]
        if not admin and self.api is None:
            return "pass"
        if not opening:
            return "off"
        scheme, _, given = (authorization or b"").strip().partition(b" ")
        if scheme.lower() != b"bearer" or not given.strip():
            return "missing"
        matches = [hmac.compare_digest(given.strip(), key.encode("ascii")) for key in opening]  # all, whichever fits
        return "pass" if any(matches) else "wrong"
