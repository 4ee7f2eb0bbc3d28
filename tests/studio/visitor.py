"""A studio for tests, and visitors that speak to it without a network."""

from __future__ import annotations

import json

from starlette.testclient import TestClient

from concordant.studio.app import create_app
from concordant.studio.settings import Settings

TOKEN = "the-owner"


def studio(runs, host="127.0.0.1", **settings):
    """The application over the folder ``runs``."""
    return create_app(Settings(runs=runs, host=host, token=TOKEN, requests_per_second=10_000, **settings))


def visitor(app, base="http://127.0.0.1:8700", token=""):
    """A client. With ``token`` it is the owner's program; without one it is a browser that has seen no page."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return TestClient(app, base_url=base, headers=headers, raise_server_exceptions=False)


def csrf(client):
    """The header with the CSRF token of this browser."""
    return {"x-csrf-token": client.get("/api/session").json()["csrf"]}


def write_run(folder, rows=(), status=None, samples=(), events=(), config="verb: sft\n"):
    """A run folder with these files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(config)
    for name, lines in (("metrics.jsonl", rows), ("samples.jsonl", samples), ("events.jsonl", events)):
        if lines:
            (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    if status:
        (folder / "status.json").write_text(json.dumps(status))
    return folder
