"""Limits of the service, applied before a request is read: key, number of requests, size and time."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
from dataclasses import dataclass
from typing import Any

from coupalign.inference.uploads import MAX_MEGABYTES

GUARDED = "/v1/"  # paths below it
MAX_BODY = (MAX_MEGABYTES + 1) * 2**20  # the image and the other fields
_DISCARDED = 64 * 2**20  # bytes of a refused request that are read and thrown away


@dataclass(frozen=True)
class Limits:
    """Limits of requests below `GUARDED`."""

    requests: int = 32  # at a time; further ones are answered 503
    seconds: float = 30.0  # from the first byte of a request to its answer
    key: str = ""  # expected in the header X-API-Key; empty accepts everyone


class _Refusal(Exception):
    def __init__(self, status: int, message: str, **headers: str):
        self.status, self.message, self.headers = status, message, headers


class Guard:
    """ASGI middleware that answers 401, 408, 413 and 503. Nothing of a refused request is kept or decoded."""

    def __init__(self, app: Any, limits: Limits):
        self._app, self._limits = app, limits
        self._running = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(GUARDED):
            await self._app(scope, receive, send)
            return
        request = _Request(receive, send)
        try:
            self._admit(scope)
            self._running += 1
            try:
                await asyncio.wait_for(self._app(scope, request.receive, request.send), self._limits.seconds)
            finally:
                self._running -= 1
            if request.refusal:
                raise request.refusal
        except _Refusal as refusal:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(request.discard_rest(), self._limits.seconds)
            await request.refuse(refusal)
        except asyncio.TimeoutError:
            if request.complete:
                await request.refuse(_overloaded("The model did not answer in time"))
            else:
                await request.refuse(_Refusal(408, f"The request took longer than {self._limits.seconds:g} seconds."))

    def _admit(self, scope: Any) -> None:
        headers = dict(scope["headers"])
        if self._limits.key and not hmac.compare_digest(headers.get(b"x-api-key", b""), self._limits.key.encode()):
            raise _Refusal(
                401, "Send the key of this service in the header X-API-Key.", **{"WWW-Authenticate": "ApiKey"}
            )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > MAX_BODY:
            raise _too_large()
        if self._running >= self._limits.requests:
            raise _overloaded(f"{self._limits.requests} requests are already being answered")


class _Request:
    """The two directions of a request: counts what arrives, and notices whether an answer has begun."""

    def __init__(self, receive: Any, send: Any):
        self._receive, self._send = receive, send
        self._bytes, self._begun = 0, False
        self.complete = False
        self.refusal: _Refusal | None = None

    async def receive(self) -> Any:
        message = await self._receive()
        self._bytes += len(message.get("body", b""))
        self.complete = self.complete or not message.get("more_body", False)
        if self._bytes > MAX_BODY:
            self.refusal = _too_large()
            raise self.refusal
        return message

    async def send(self, message: Any) -> None:
        if self.refusal is None:  # else it is FastAPI's own answer to the exception above
            self._begun = True
            await self._send(message)

    async def discard_rest(self) -> None:
        """Reads what the client still sends, up to a limit: most clients read no answer before they have sent all."""
        while not self.complete and self._bytes < _DISCARDED:
            message = await self._receive()
            self._bytes += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)

    async def refuse(self, refusal: _Refusal) -> None:
        """Answers unless an answer has begun, and closes the connection if more of the request would follow."""
        if self._begun:
            return
        body = json.dumps({"error": refusal.message}).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **refusal.headers}
        if not self.complete:
            headers["Connection"] = "close"
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": refusal.status, "headers": encoded})
        await self._send({"type": "http.response.body", "body": body})


def _too_large() -> _Refusal:
    return _Refusal(413, f"The request is larger than {MAX_BODY:,} bytes: send an image of up to {MAX_MEGABYTES} MB.")


def _overloaded(reason: str) -> _Refusal:
    return _Refusal(503, f"{reason}: try again in a second.", **{"Retry-After": "1"})
