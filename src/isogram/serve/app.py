"""The server of the page. It answers in JSON, pictures and sounds; it keeps nothing, and writes nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware

from isogram.errors import DataError, IsogramError
from isogram.serve.gate import Gate
from isogram.serve.site import MissingError, Site

LIMIT = 10_000_000
"""Bytes of an upload."""

_FILES = Path(__file__).parent / "page"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

LOOPBACK = ("127.0.0.1", "localhost")


class TooLargeError(DataError):
    """More was sent than may be."""


_STATUS: dict[type[IsogramError], int] = {TooLargeError: 413, MissingError: 404}
"""Of an answer that is an error; 422 of others."""


def create_app(site: Site, *, token: str = "", limit: int = LIMIT) -> FastAPI:
    """The page of a site as an ASGI application.

    Args:
        site: what is shown.
        token: that who comes has to know; empty: nobody needs one, and it answers under the names of this machine
            alone, so that a page elsewhere cannot point a name of its own here.
        limit: bytes of what somebody uploads.
    """
    # No pages of documentation: FastAPI's load scripts from elsewhere.
    app = FastAPI(title="Isogram", docs_url=None, redoc_url=None, openapi_url=None)
    # A browser gives the cookie of one name to no other one: with a token any name may be this server's, a proxy's too.
    if not token:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK), www_redirect=False)
    app.add_middleware(Gate, token=token)

    @app.exception_handler(IsogramError)
    def _told(request: Request, error: IsogramError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, _STATUS.get(type(error), 422))

    @app.exception_handler(RequestValidationError)
    def _wrong(request: Request, error: RequestValidationError) -> JSONResponse:
        said = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        return JSONResponse({"error": "; ".join(said)}, 422)

    def static(path: Path) -> Callable[[], FileResponse]:
        return lambda: FileResponse(path, media_type=_TYPES[path.suffix])

    for path in sorted(_FILES.iterdir()):
        if path.suffix in _TYPES:
            address = "/" if path.name == "index.html" else f"/page/{path.name}"
            app.get(address, include_in_schema=False)(static(path))

    @app.get("/api/site")
    def about() -> dict[str, Any]:
        return site.about | {"limit": limit}

    @app.get("/api/banks/{bank}/items")
    def items(
        bank: int, find: Annotated[str, Query(max_length=200)] = "", start: Annotated[int, Query(ge=0)] = 0
    ) -> dict[str, Any]:
        return site.items(bank, find, start)

    @app.get("/api/banks/{bank}/items/{row}")
    def item(bank: int, row: int) -> dict[str, Any]:
        return site.item(bank, row)

    @app.get("/api/banks/{bank}/items/{row}/near")
    def near(bank: int, row: int) -> dict[str, Any]:
        return site.near(bank, row)

    @app.post("/api/near")
    async def ask(request: Request, node: Annotated[str, Query(max_length=500)]) -> dict[str, Any]:
        body = await read(request, limit)
        typed = request.headers.get("content-type", "").startswith("text/plain")
        return await run_in_threadpool(site.ask, node, body, typed)

    @app.get("/media/{bank}/{row}")
    def media(bank: int, row: int) -> Response:
        found = site.media(bank, row)
        if found.path is not None:
            return FileResponse(found.path, media_type=found.type)
        return Response(found.data, media_type=found.type)

    return app


async def read(request: Request, limit: int) -> bytes:
    """The body of a request, of which no more than `limit` bytes are ever read.

    Raises:
        TooLargeError: it is longer.
    """
    announced = request.headers.get("content-length", "0")
    body = bytearray()
    if not announced.isdigit() or int(announced) <= limit:
        async for block in request.stream():
            body += block
            if len(body) > limit:
                break
        else:
            return bytes(body)
    raise TooLargeError(f"that is more than {limit / 1e6:,.0f} MB; take a smaller file")
