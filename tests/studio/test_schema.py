"""Requests made from the OpenAPI schema: no answer is an error of the server."""

from __future__ import annotations

import os

import pytest

from tests.studio.visitor import TOKEN, studio, write_run
from tests.votes.simulated import arena_with

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

KNOWN = {"arena": "main", "run": "a", "pair": "p0"}
EXAMPLES = int(os.environ.get("SCHEMA_EXAMPLES", "8"))


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    said = [{"step": 1, "split": "eval", "prompt": [{"role": "user", "content": "q"}], "response": "r", "reward": 1.0}]
    write_run(runs / "a", [{"step": 1, "loss": 1.0}], samples=said)
    arena_with(str(runs / "votes.sqlite"), pairs=3, raters=1)
    app = studio(runs)
    app.state.launcher.start = lambda name, arguments: 1  # nothing is started here
    return schemathesis.openapi.from_asgi("/api/openapi.json", app, headers={"host": "127.0.0.1:8700"})


def test_no_request_is_an_error_of_the_server(api):
    headers = {"host": "127.0.0.1:8700", "authorization": f"Bearer {TOKEN}"}
    found = [one.ok() for one in api.get_all_operations()]
    operations = [one for one in found if one.path != "/api/stream"]  # which has no end
    assert len(operations) == len(found) - 1 > 12
    for operation in operations:

        @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(), is_known=st.booleans())
        def check(case, is_known):
            if is_known:  # else no request would get as far as the votes, or the files of a run
                for place in (case.body, case.query):
                    if isinstance(place, dict):
                        place.update({key: value for key, value in KNOWN.items() if key in place})
            answer = case.call(headers=headers, timeout=120)  # of a busy machine
            assert answer.status_code < 500, answer.text

        check()
