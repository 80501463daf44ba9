"""The one HTTP client of the daemon, shared by all providers.

aiohttp is imported on first use, never at start: `warm` does it in a thread. A call has no total
time-out here, only a bound on connecting; the engine watches for silence. Redirects are refused,
as the credentials would go along. There are no cookies: what one session's call sets would be sent
with another's. Proxies of the environment hold for other machines and never for this one; `.netrc`
is not read. Every transport failure becomes `ProviderFailed`, whose text names the address without
user info and query, and what to check; the library's own text is left out, as it may hold either.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self

import anyio.to_thread

from tertulia_protocol.provider_config import is_http, is_loopback, public_url
from tertuliad import limits, open_files, threads
from tertuliad.providers.base import FailureKind, ProviderFailed

if TYPE_CHECKING:
    import aiohttp


class Answer:
    """A response under way, to be left as a context manager: leaving it before its end closes the
    connection, after it the connection is kept."""

    def __init__(self, response: aiohttp.ClientResponse, url: str) -> None:
        import aiohttp

        self._response = response
        self._faults = (aiohttp.ClientError, OSError, TimeoutError)
        self._read = response.content.readany
        self._url = url
        self.status = response.status
        self.content_type = response.content_type

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()

    def header(self, name: str) -> str | None:
        return self._response.headers.get(name)

    @property
    def at_end(self) -> bool:
        """All of the body has arrived, whether read or not: the connection is free again."""
        return self._response.content.is_eof()

    async def read(self) -> bytes:
        """What has arrived, or the next that does; empty at the end."""
        try:
            return await self._read()
        except self._faults as exc:
            raise ProviderFailed(
                "interrupted",
                f"{public_url(self._url)} cut the connection in the middle of its answer"
                f" ({type(exc).__name__}). Send the message again.",
                status=self.status,
            ) from None

    async def read_all(self, max_bytes: int) -> tuple[bytes, bool]:
        """The body up to `max_bytes`, and whether that is all of it."""
        pieces: list[bytes] = []
        size = 0
        while piece := await self.read():
            pieces.append(piece)
            size += len(piece)
            if size > max_bytes:
                return b"".join(pieces)[:max_bytes], False
        return b"".join(pieces), True


class Http:
    """The client. Safe for any number of calls at once; bound to the event loop of its first."""

    def __init__(self) -> None:
        self._sessions: dict[bool, aiohttp.ClientSession] = {}  # by: is it this machine
        self._has_threads = False
        """Those that the first connection takes were there."""

    async def warm(self) -> None:
        """Import what the first call needs, in a thread. Does nothing when it is there."""
        if "aiohttp" not in sys.modules:
            await anyio.to_thread.run_sync(importlib.import_module, "aiohttp")

    async def aclose(self) -> None:
        """Close all connections; the client may be used again."""
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    async def ask(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        """Send a request and give its answer, whatever its status; a redirect is refused.

        Raises `ProviderFailed`.
        """
        if not is_http(url):
            raise ProviderFailed(
                "invalid_request",
                f"{public_url(url)} cannot be called. Check the provider's base URL: it begins with"
                " http:// or https:// and a host.",
            )
        local = is_loopback(url)
        session = self._sessions.get(local) or await self._open(local)
        import aiohttp

        try:
            proxy = {} if local else _proxy_of(url)
            response = await _ask(session, method, url, headers=headers, body=body, proxy=proxy)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
            raise _not_reached(exc, public_url(url)) from None
        if 300 <= response.status < 400:
            response.close()
            raise _redirected(response, public_url(url))
        return Answer(response, url)

    async def _open(self, local: bool) -> aiohttp.ClientSession:
        self._has_threads = self._has_threads or threads.pool_can_be_had()
        if not self._has_threads:
            raise ProviderFailed("unavailable", threads.TOLD, retryable=True)
        await self.warm()
        import aiohttp

        if local not in self._sessions:
            keep = limits.KEEP_LOCAL_S if local else limits.KEEP_REMOTE_S
            self._sessions[local] = aiohttp.ClientSession(
                connector=_connector(keep),
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=limits.CONNECT_TIMEOUT_S,
                    sock_connect=limits.CONNECT_TIMEOUT_S,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._sessions[local]


_connected: ContextVar[bool] = ContextVar("connected")
"""Whether this task's request had a connection made for it. (Of aiohttp's ways to learn that, its
traces cost a twentieth of a turn.)"""


def _connector(keep_s: float) -> aiohttp.TCPConnector:
    """Keeps any number of connections, idle ones for so long."""
    import aiohttp

    class Noting(aiohttp.TCPConnector):
        async def _create_connection(self, *args: Any) -> Any:  # where aiohttp says to override
            _connected.set(True)
            return await super()._create_connection(*args)

    return Noting(limit=0, keepalive_timeout=keep_s)


async def _ask(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    body: bytes | None,
    proxy: dict[str, Any],
) -> aiohttp.ClientResponse:
    """Send the request; once more where a kept connection turns out to be closed already.

    A server may close a connection while a request is on its way to it, and some close what they
    promised to keep (llama.cpp's does after each stream): nothing of the request was read then.
    """
    import aiohttp

    async def once() -> aiohttp.ClientResponse:
        _connected.set(False)
        return await session.request(
            method,
            url,
            headers=headers,
            data=_payload(body),
            allow_redirects=False,
            **proxy,
        )

    try:
        return await once()
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
        if _connected.get():
            raise
    return await once()


def _payload(body: bytes | None) -> bytes | io.BytesIO | None:
    return io.BytesIO(body) if body and len(body) >= limits.MODEL_REQUEST_AT_ONCE_BYTES else body


def _proxy_of(url: str) -> dict[str, Any]:
    """The proxy that the environment names for `url`, as arguments of a request."""
    from urllib.request import getproxies_environment, proxy_bypass

    from yarl import URL

    proxies = getproxies_environment()
    target = URL(url)
    named = proxies.get(target.scheme) or proxies.get("all")
    if not named or proxy_bypass(target.host or ""):
        return {}
    return {"proxy": URL(named if "://" in named else f"http://{named}")}


def _redirected(response: aiohttp.ClientResponse, where: str) -> ProviderFailed:
    target = public_url(response.headers.get("location", ""))
    return ProviderFailed(
        "bad_response",
        f"{where} answered with a redirect (HTTP {response.status}) to {target}. Redirects are not"
        " followed, as the key would go along: put the final address into the provider's base URL.",
        status=response.status,
    )


def _not_reached(exc: Exception, where: str) -> ProviderFailed:
    """The failure for what kept a request from its answer."""
    import aiohttp

    kind: FailureKind = "connection"
    retryable = True
    match exc:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ServerFingerprintMismatch():
            retryable = False
            text = (
                f"The certificate of {where} is not trusted. Check the host's name; for a private"
                " authority set SSL_CERT_FILE to its certificate."
            )
        case aiohttp.ClientSSLError():
            retryable = False
            text = f"TLS with {where} failed. Check whether that port speaks https or plain http."
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
            text = (
                f"The proxy on the way to {where} failed. Check HTTP_PROXY, HTTPS_PROXY and"
                " NO_PROXY."
            )
        case aiohttp.ClientConnectorDNSError():
            text = f"The host of {where} is not known. Check its spelling, and the network."
        case aiohttp.ConnectionTimeoutError():
            text = (
                f"No connection to {where} within {limits.CONNECT_TIMEOUT_S:g} s. Check the"
                " address, the network and the firewall."
            )
        case aiohttp.ClientConnectorError(os_error=ConnectionRefusedError()):
            text = (
                f"{where} refused the connection. Check that the server runs and that the port"
                " is right."
            )
        case aiohttp.ClientConnectorError() if open_files.are_short(exc.os_error):
            text = open_files.told()
        case aiohttp.ClientConnectorError():
            reason = exc.os_error.strerror or type(exc.os_error).__name__
            text = f"{where} cannot be reached ({reason}). Check the address and the network."
        case aiohttp.ClientResponseError():
            kind, retryable = "bad_response", False
            text = f"{where} does not answer in HTTP. Check the address and the port."
        case aiohttp.InvalidURL() | ValueError():
            kind, retryable = "invalid_request", False
            text = f"{where} cannot be called. Check the provider's base URL and headers."
        case _:
            text = f"{where} closed the connection before it answered ({type(exc).__name__})."
    return ProviderFailed(kind, text, retryable=retryable)
