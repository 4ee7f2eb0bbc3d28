"""Makes pages from the templates. Every text is escaped, and pages hold no data of runs: they ask the API for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from concordant.runs.identity import package_version
from concordant.studio.pages import Page, shown_pages

HERE = Path(__file__).parent
_TEMPLATES = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True, trim_blocks=True)


def page(request: Request, template: str, title: str, status: int = 200, **values: Any) -> Response:
    """The page that ``template`` makes. ``values`` are texts and plain objects."""
    known = {
        "title": title,
        "path": request.url.path,
        "pages": _allowed(request),
        "csrf": getattr(request.state, "csrf", ""),
        "role": getattr(request.state, "role", ""),
        "version": package_version(),
    }
    return HTMLResponse(_TEMPLATES.get_template(template).render(**(known | values)), status)


def refused(request: Request, status: int, sentence: str) -> Response:
    """A refusal: a page for a browser that asked for a page, and JSON for every other program."""
    wants_page = "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api")
    if wants_page and request.method == "GET":
        return page(request, "refused.html", "Refused", status, sentence=sentence, code=status)
    headers = {"retry-after": "1"} if status == 429 else {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse({"detail": sentence}, status, headers)


def _allowed(request: Request) -> tuple[Page, ...]:
    """The pages that the visitor may open: a guest sees the page of his token alone."""
    if getattr(request.state, "role", "") == "guest":
        home = request.app.state.access.home_of(request.state.token)
        return tuple(page for page in shown_pages() if page.path == home)
    return () if getattr(request.state, "role", "") == "" else shown_pages()
