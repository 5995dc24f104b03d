"""Who may come in, and the headers of every answer. No request passes by here, also not one for a file of the page."""

import asyncio
import hmac
import secrets
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
"""Nothing is loaded from anywhere else, and nothing can be sent there. `blob:` is a file that the reader dropped."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_CLOSED = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Isogram: a token is needed</title>
<h1>A token is needed</h1><p>Open the address that <code>isogram serve</code> printed: it ends in <code>?token=</code>
and the token.</p></html>"""

_OPEN = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Isogram</title>
<meta http-equiv="refresh" content="0;url=/"><p><a href="/">Go on</a></p></html>"""


class Gate:
    """ASGI middleware: a token where there is one, the page's own origin for all but the page, headers for all.

    The token comes once in the address, and is answered by a cookie that no script can read and no other site makes
    a browser send; or with each request as a bearer.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token
        # The cookie is not the token: who reads a browser's cookies later cannot open the next start of the page.
        self._pass, self._cookie = secrets.token_urlsafe(32), f"isogram-{secrets.token_hex(4)}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let through."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # there are no websockets here

        begun = False

        async def with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        answer = self._refusal(scope)
        try:
            await (self._app if answer is None else answer)(scope, receive, with_headers)
        except asyncio.CancelledError:  # Ctrl-C, and the answer takes longer than the server waits
            if not begun:
                await JSONResponse({"error": "the server is ending"}, 503)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if self._token:
            query = parse_qs(scope["query_string"].decode("latin-1"))
            if "token" in query and scope["method"] == "GET":
                if not _same(query["token"][0], self._token):
                    return HTMLResponse(_CLOSED, 401)
                return self._welcome()
            if not self._known(headers):
                return HTMLResponse(_CLOSED, 401)
        page = scope["path"] == "/" and scope["method"] in ("GET", "HEAD")  # may be linked to from anywhere
        if not page and not own_origin(headers):
            return JSONResponse({"error": "this was asked for by another page; open this one and ask here"}, 403)
        return None

    def _known(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _same(given.strip(), self._token):
            return True
        return _same(cookie_parser(headers.get("cookie", "")).get(self._cookie, ""), self._pass)

    def _welcome(self) -> Response:
        """The page without the token in its address, which then stands in no history.

        A page that goes on by itself, for after a redirection from another site's link browsers hold a strict cookie
        back.
        """
        answer = HTMLResponse(_OPEN)
        answer.set_cookie(self._cookie, self._pass, httponly=True, samesite="strict", path="/")
        return answer


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode(), right.encode())


def own_origin(headers: Headers) -> bool:
    """Whether a page of this server asks, or no page at all: browsers say who does, other programs need not."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    try:
        if origin is not None and urlsplit(origin).netloc != headers.get("host", ""):
            return False
    except ValueError:  # no address at all
        return False
    return site in (None, "same-origin", "none")
