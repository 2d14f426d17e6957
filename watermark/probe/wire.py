"""One HTTP request, with nothing left to trust: a deadline, a cap on the body, no redirects, the key kept to itself.

Standard library only. Proxies and certificates are those of the environment; a loopback address uses no proxy.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import socket
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from watermark.errors import OutputsInvalid

LARGEST_BODY = 32 * 2**20


class NoResponse(Exception):
    """Nothing usable came back, in words. unreached: the server was not even connected to."""

    def __init__(self, message: str, *, unreached: bool = False) -> None:
        super().__init__(message)
        self.unreached = unreached


@dataclass(frozen=True)
class Response:
    """What came back, whole."""

    status: int
    body: bytes
    retry_after: str | None = None
    location: str | None = None


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """A redirect is an answer like any other: following it would carry the key to another host."""


@dataclass(frozen=True)
class Wire:
    """The way to one server. base: its address up to and with /v1. key: sent as a bearer token, never shown."""

    base: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 120.0
    largest: int = LARGEST_BODY

    def __post_init__(self) -> None:
        _check_address(self.base, self.key)
        proxies: dict[str, str] | None = {} if is_loopback(self.base) else None
        opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _Stay())
        opener.addheaders = []
        object.__setattr__(self, "_opener", opener)

    def send(self, path: str, body: dict[str, Any] | None = None) -> Response:
        """POSTs `body` as JSON, or GETs if there is none. Raises NoResponse; any status is a response."""
        headers = {"Accept": "application/json", "User-Agent": "wmark"}
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.base.rstrip("/") + path, content, headers)
        deadline = time.monotonic() + self.timeout
        try:
            return self._opened(request, deadline)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._explained(error) from None

    def redacted(self, text: str) -> str:
        """A server's words, fit to be shown: without the key, control characters or length."""
        text = text.replace(self.key, "[key]") if self.key else text
        text = "".join(c if c.isprintable() else " " for c in text)
        return " ".join(text.split())[:300]

    def _opened(self, request: urllib.request.Request, deadline: float) -> Response:
        opener: urllib.request.OpenerDirector = object.__getattribute__(self, "_opener")
        try:
            answer = opener.open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            raw = getattr(answer, "fp", None) if isinstance(answer, urllib.error.HTTPError) else answer
            return Response(
                answer.status,
                self._body(raw or answer, deadline),
                answer.headers.get("Retry-After"),
                answer.headers.get("Location"),
            )

    def _body(self, answer: Any, deadline: float) -> bytes:
        parts, size = [], 0
        while part := answer.read1(1 << 16):
            parts.append(part)
            size += len(part)
            if size > self.largest:
                raise NoResponse(f"a response of more than {self.largest >> 20} MiB, not read further")
            if time.monotonic() > deadline:
                raise TimeoutError
        missing = getattr(answer, "length", None)
        if missing:
            raise NoResponse(f"the response was cut short: {missing:,} bytes are missing")
        return b"".join(parts)

    def _explained(self, error: Exception) -> NoResponse:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, TimeoutError):
            return NoResponse(f"no answer within {self.timeout:g} s")
        if isinstance(reason, ConnectionRefusedError):
            return NoResponse(f"nothing answers at {self.base} (connection refused)", unreached=True)
        if isinstance(reason, socket.gaierror):
            return NoResponse(f"no such host: {urlsplit(self.base).hostname}", unreached=True)
        if isinstance(reason, ssl.SSLError):
            return NoResponse(f"no secure connection to {self.base}: {reason.reason or reason}", unreached=True)
        if isinstance(reason, http.client.IncompleteRead):
            return NoResponse("the response was cut short")
        if isinstance(reason, ConnectionError | http.client.RemoteDisconnected):
            return NoResponse("the connection was closed before an answer came")
        return NoResponse(self.redacted(f"the request failed: {type(reason).__name__}: {reason}"))


def api_key(variable: str) -> str | None:
    """The key in an environment variable, None if it is not set. Raises OutputsInvalid without showing it."""
    key = os.environ.get(variable, "").strip()
    if key and not (key.isascii() and key.isprintable()):
        raise OutputsInvalid(f"the key in {variable} holds characters that no header may carry")
    return key or None


def is_loopback(address: str) -> bool:
    """Whether an address stays on this machine."""
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_address(base: str, key: str | None) -> None:
    try:
        parts = urlsplit(base)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good:
        raise OutputsInvalid("the address is none", hint="pass http(s)://host[:port]/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise OutputsInvalid(
            "an address with a user, password or query; it would end in the log", hint="pass http(s)://host[:port]/v1"
        )
    if key and parts.scheme == "http" and not is_loopback(base):
        raise OutputsInvalid(
            f"a key would travel to {parts.hostname} unencrypted; nothing was sent",
            hint="use https://, or name an unset variable: --api-key-env NONE",
        )
