"""The page in a browser: six files of the package, each under a fixed path."""

from importlib.resources import files
from typing import Final

from fastapi import APIRouter
from fastapi.responses import Response

# path, file, type
FILES: Final = (
    ("/", "index.html", "text/html; charset=utf-8"),
    ("/page/app.js", "app.js", "text/javascript; charset=utf-8"),
    ("/page/answers.js", "answers.js", "text/javascript; charset=utf-8"),
    ("/page/library.js", "library.js", "text/javascript; charset=utf-8"),
    ("/page/icon.svg", "icon.svg", "image/svg+xml"),
    ("/page/style.css", "style.css", "text/css; charset=utf-8"),
)


def page_router() -> APIRouter:
    """Routes that give the files, read once."""
    router = APIRouter(include_in_schema=False)
    folder = files("deltagram.serve") / "page"
    for path, name, kind in FILES:
        _add(router, path, content=(folder / name).read_bytes(), kind=kind)
    return router


def _add(router: APIRouter, path: str, *, content: bytes, kind: str) -> None:
    @router.api_route(path, methods=["GET", "HEAD"])
    async def give() -> Response:
        return Response(content, headers={"Content-Type": kind, "Cache-Control": "no-cache"})
