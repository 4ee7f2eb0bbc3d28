"""The endpoints of the server, as OpenAI's clients know them, and ``/v1/score`` for the reward model."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

import torch
from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from torch import Tensor

from concordant.core.errors import UserError, nearest
from concordant.data.stop_strings import StopStrings
from concordant.engines.samples import Sample
from concordant.runs.identity import package_version
from concordant.serve.answers import Events, Pending, gone
from concordant.serve.gate import Gate
from concordant.serve.loop import SamplingLoop
from concordant.serve.queue import Call, Full
from concordant.serve.served import Scorers, Served
from concordant.serve.wire import ChatRequest, CompletionRequest, ScoreRequest, Wrong, bad_input

MOST_PROMPTS = 128  # of one request for completions
MOST_SCORED = 1024  # texts of one request for scores
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text}
    for status, text in (
        (400, "wrong request"),
        (401, "no or a wrong key"),
        (403, "not a program of this machine"),
        (404, "no such model"),
        (413, "too large"),
        (429, "too many answers wait"),
        (503, "the sampler failed or is closing"),
    )
}


class Server:
    """The application's state: what it serves, and the loop that samples."""

    def __init__(self, served: Served, scorers: Scorers | None, most_waiting: int) -> None:
        self.served, self.scorers, self.most_waiting = served, scorers, most_waiting
        self.loop: SamplingLoop | None = None

    def open(self) -> None:
        """Start to sample. Called in the thread of the event loop that answers the clients."""
        events = asyncio.get_running_loop()

        def notify(calls: Sequence[Call]) -> None:
            events.call_soon_threadsafe(_wake, calls)

        self.loop = SamplingLoop(self.served.batch, self.most_waiting, notify)

    def close(self) -> None:
        assert self.loop is not None
        self.loop.close()

    def ask(self, request: ChatRequest | CompletionRequest, prompts: Sequence[Tensor], caller: str) -> Pending:
        """Put the calls of a request into the queue. Raises Wrong if one of them cannot be served."""
        served, chat = self.served, isinstance(request, ChatRequest)
        assert self.loop is not None
        if len(prompts) * request.answers > self.most_waiting:
            raise Wrong(400, f"a request has at most {self.most_waiting} answers here", param="n")
        seed = secrets.randbits(63) if request.seed is None else request.seed
        stops = StopStrings(served.tokenizer, request.stops) if request.stops else None
        calls = []
        seen: dict[tuple[int, ...], int] = {}
        for prompt in prompts:
            left = served.context - len(prompt)
            if left < 1:
                raise Wrong(
                    400,
                    f"the prompt has {len(prompt):,} tokens, and prompt and answer have at most {served.context:,}",
                    code="context_length_exceeded",
                    param="messages" if chat else "prompt",
                )
            room = min(left, request.most_tokens or left)
            sampling = request.sampling(room)
            key = tuple(prompt.tolist())
            occurrence = seen[key] = seen.get(key, -1) + 1
            call = Call(caller=caller, each_token=bool(request.stream))
            call.samples = [
                Sample(
                    owner=call,
                    prompt_T=prompt,
                    sampling=sampling,
                    seed=seed,
                    room=room,
                    number=number,
                    occurrence=occurrence,
                    adapter=served.adapters[request.model],
                    stops=stops,
                    likely=request.likely,
                )
                for number in range(request.answers)
            ]
            calls.append(call)
        pending = Pending(served, self.loop, calls, request.model, chat)
        for call in calls:
            try:
                self.loop.ask(call)
            except Full:
                pending.forget()
                raise Wrong(429, "too many answers wait; try again later", code="rate_limit_exceeded") from None
        return pending


def _wake(calls: Sequence[Call]) -> None:
    for call in calls:
        call.listening = False
        if call.wake is not None:
            call.wake()


def server_of(request: Request) -> Server:
    return request.app.state.server


Here = Annotated[Server, Depends(server_of)]


def create_app(served: Served, scorers: Scorers | None, keys: Sequence[str] = ()) -> FastAPI:
    """The application. Its lifespan starts and ends the sampler."""
    server = Server(served, scorers, served.config.queue)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server.open()
        yield
        await asyncio.to_thread(server.close)

    app = FastAPI(title="concordant serve", version=package_version(), lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.server = server
    app.add_middleware(Gate, keys=keys)
    _add_endpoints(app)
    _answer_errors(app)
    return app


def _add_endpoints(app: FastAPI) -> None:
    @app.get("/health")
    def health(server: Here) -> dict[str, Any]:
        """Whether the server answers, how many answers are sampled now, and how many wait."""
        assert server.loop is not None
        return {"status": "ok", "sampling": len(server.loop.batch.live), "waiting": server.loop.queue.waiting}

    @app.get("/v1/models", responses=_ERRORS)
    def models(server: Here) -> dict[str, Any]:
        """The models that requests may name."""
        return {"object": "list", "data": [_card(name) for name in server.served.models]}

    @app.get("/v1/models/{name:path}", responses=_ERRORS)
    def model(name: str, server: Here) -> dict[str, Any]:
        """One model."""
        _check_model(server.served, name)
        return _card(name)

    @app.post("/v1/chat/completions", responses=_ERRORS)
    async def chat(body: ChatRequest, request: Request, server: Here) -> Response:
        """Answer a dialogue. The model's chat template renders it."""
        body.check()
        _check_model(server.served, body.model)
        messages = [turn.message() for turn in body.messages]
        try:
            prompt = await asyncio.to_thread(server.served.dialogue, messages)
        except UserError as problem:
            raise bad_input(problem, "messages") from None
        return await _answered(server, body, [prompt], request)

    @app.post("/v1/completions", responses=_ERRORS)
    async def completions(body: CompletionRequest, request: Request, server: Here) -> Response:
        """Continue plain texts. No chat template is used."""
        body.check()
        _check_model(server.served, body.model)
        prompts = body.prompts()
        if len(prompts) > MOST_PROMPTS:
            raise Wrong(400, f"a request has at most {MOST_PROMPTS} prompts", param="prompt")
        try:
            ids = [await _ids(server.served, prompt) for prompt in prompts]
        except UserError as problem:
            raise bad_input(problem, "prompt") from None
        return await _answered(server, body, ids, request)

    @app.post("/v1/score", responses=_ERRORS)
    async def score(body: ScoreRequest, server: Here) -> dict[str, Any]:
        """Score texts or dialogues by the reward model. Of several reward models the score is their mean."""
        if server.scorers is None:
            raise Wrong(404, "no reward model is served; start the server with --reward FOLDER", code="model_not_found")
        texts = body.texts()
        if not 0 < len(texts) <= MOST_SCORED:
            raise Wrong(400, f"input: expected 1 to {MOST_SCORED:,} texts or dialogues", param="input")
        if not all(isinstance(text, str) or text for text in texts):
            raise Wrong(400, "input: a dialogue has no message", param="input")
        try:
            scores = await asyncio.to_thread(server.scorers.score, texts)
        except UserError as problem:
            raise bad_input(problem, "input") from None
        rows = [
            {"object": "score", "index": i, "score": s.score, "members": s.members, "disagreement": s.disagreement}
            for i, s in enumerate(scores)
        ]
        return {"object": "list", "data": rows, "model": body.model or "reward"}


async def _ids(served: Served, prompt: str | list[int]) -> Tensor:
    if isinstance(prompt, str):
        ids = await asyncio.to_thread(served.plain, prompt)
    else:
        if not all(0 <= i < served.vocabulary for i in prompt):
            raise Wrong(400, f"prompt: a token id lies outside 0 … {served.vocabulary - 1}", param="prompt")
        ids = torch.tensor(prompt, dtype=torch.int64)
    if len(ids) == 0:
        raise Wrong(400, "the prompt is empty; an answer needs at least one token to continue", param="prompt")
    return ids


async def _answered(
    server: Server, body: ChatRequest | CompletionRequest, prompts: Sequence[Tensor], request: Request
) -> Response:
    pending = server.ask(body, prompts, request.state.caller)
    if body.stream:
        return Events(pending, bool(body.stream_options and body.stream_options.include_usage))
    answering = asyncio.create_task(pending.body())
    leaving = asyncio.create_task(gone(request.receive))
    try:
        await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise Wrong(499, "the client has gone")
        return JSONResponse(answering.result())
    finally:
        for task in (answering, leaving):
            task.cancel()
        pending.forget()


def _check_model(served: Served, name: str) -> None:
    if name not in served.adapters:
        text = f'no model "{name[:200]}".{nearest(name, served.models)} GET /v1/models lists them'
        raise Wrong(404, text, code="model_not_found", param="model")


def _card(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "concordant"}


def _answer_errors(app: FastAPI) -> None:
    """Every error has the form of the interface."""

    @app.exception_handler(Wrong)
    def wrong(request: Request, problem: Wrong) -> Response:
        return JSONResponse(problem.body(), problem.status)

    @app.exception_handler(HTTPException)
    def http_error(request: Request, problem: HTTPException) -> Response:
        return JSONResponse(Wrong(problem.status_code, str(problem.detail)).body(), problem.status_code)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, problem: RequestValidationError) -> Response:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        text = f"{place}: {first['msg']}" if place else str(first["msg"])
        return JSONResponse(Wrong(400, text, param=place).body(), 400)

    @app.exception_handler(Exception)
    def bug(request: Request, problem: Exception) -> Response:
        return JSONResponse(Wrong(500, "the server failed; its log says why").body(), 500)
