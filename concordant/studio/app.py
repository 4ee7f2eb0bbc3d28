"""Makes the application: pages, the interface below /api, static files, and the guard around all of them."""

from __future__ import annotations

import importlib

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.staticfiles import StaticFiles

from concordant.core.errors import UserError
from concordant.runs.identity import package_version
from concordant.studio.access import Access, Refusal
from concordant.studio.guard import Guard, cookie
from concordant.studio.pages import shown_pages
from concordant.studio.render import HERE, page, refused
from concordant.studio.settings import Settings

API = "/api"
_YEAR = {"cache-control": "public, max-age=31536000, immutable"}  # of a file whose address holds its version


def create_app(settings: Settings) -> FastAPI:
    """The studio as an ASGI application. Every page of ``pages.py`` adds its routes."""
    app = FastAPI(
        title="Concordant studio",
        version=package_version(),
        description="The interface of the studio. Its pages use nothing else.",
        openapi_url=f"{API}/openapi.json",
        docs_url=None,  # FastAPI's page loads scripts from another server; templates/api.html shows the same
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.access = Access(settings)
    _answer_errors(app)
    _add_own_routes(app)
    for shown in shown_pages():
        importlib.import_module(shown.module).plug(app)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.add_middleware(Guard, access=app.state.access)
    return app


def _add_own_routes(app: FastAPI) -> None:
    @app.get("/enter", include_in_schema=False)
    async def enter(request: Request, token: str = "") -> Response:
        """The printed link. The answer is a page and no redirect: a browser that comes from another site does not
        send a strict cookie after a redirect."""
        access: Access = app.state.access
        try:
            await access.enter(request, token)
        except Refusal as no:
            return refused(request, no.status, no.sentence)
        answer = page(request, "enter.html", "Welcome", home=access.home_of(token))
        answer.headers.append("set-cookie", cookie(access.token_cookie, token))
        return answer

    @app.get(f"{API}/session", tags=["studio"])
    def session(request: Request) -> dict[str, str]:
        """The visitor's role (owner, guest or reader), and the CSRF token that every changing request must send."""
        return {"role": request.state.role, "csrf": request.state.csrf}

    @app.get(API, include_in_schema=False)
    def interface(request: Request) -> Response:
        return page(request, "api.html", "Interface", schema=app.openapi())

    @app.get("/static/plotly.min.js", include_in_schema=False)
    def plotly() -> Response:
        """Plotly's own bundle, from its Python package."""
        import importlib.resources

        return FileResponse(str(importlib.resources.files("plotly") / "package_data" / "plotly.min.js"), headers=_YEAR)

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return FileResponse(HERE / "static" / "icon.svg", media_type="image/svg+xml")


def _answer_errors(app: FastAPI) -> None:
    """Every error becomes a sentence, as JSON for programs and as a page for a browser."""

    @app.exception_handler(UserError)
    def bad_input(request: Request, problem: UserError) -> Response:
        return refused(request, 422, str(problem))

    @app.exception_handler(AnyHTTPException)
    def http_error(request: Request, problem: AnyHTTPException) -> Response:
        return refused(request, problem.status_code, str(problem.detail))

    @app.exception_handler(RequestValidationError)
    def wrong_request(request: Request, problem: RequestValidationError) -> Response:
        listed = [f"{'.'.join(map(str, error['loc'][1:]))}: {error['msg']}" for error in problem.errors()]
        return JSONResponse({"detail": "; ".join(listed)}, 422)
