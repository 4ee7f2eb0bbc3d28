"""Who is let in: keys, hosts, sizes, and bodies that make no sense. None of them ends in a server error."""

from __future__ import annotations

import http.client
import json
import os

import pytest

from concordant.core.errors import UserError
from concordant.serve.command import open_server, read_keys
from tests.serve.conftest import KEYS, config_of, running

BODY = json.dumps({"model": "base", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}).encode()
JSON = {"content-type": "application/json"}
OWN = JSON | {"authorization": f"Bearer {KEYS[0]}"}


def post(port, body=BODY, headers=OWN, path="/v1/chat/completions"):
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    link.request("POST", path, body, headers)
    answer = link.getresponse()
    found = answer.status, answer.read()
    link.close()
    return found


@pytest.mark.parametrize("given", ["", "Bearer ", "Bearer a-key", f"Basic {KEYS[0]}", f"Bearer {KEYS[0]}x", "Bearer é"])
def test_a_request_without_the_key_is_refused(served, given):
    status, body = post(served[1], headers=JSON | {"authorization": given.encode()})
    assert status == 401 and json.loads(body)["error"]["code"] == "invalid_api_key"
    assert post(served[1], headers=JSON | {"authorization": f"Bearer {KEYS[1]}"})[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b'"a"', b"{}", b"\xff\xfe", b"[" * 50_000, b'{"model":' * 20_000, b"1e999",
        b'{"model": "base", "messages": [{"role": "user", "content": "hi"}], "temperature": NaN}',
        b'{"model": "base", "messages": [{"role": "user", "content": "hi"}], "seed": 1e400}',
        b'{"model": "base", "messages": [{"role": "robot", "content": "hi"}]}',
        b'{"model": "base", "messages": [{"role": "user", "content": {"a": 1}}]}',
        b'{"model": {"a": 1}, "messages": 3}',
        b'{"model": "base", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "base", "messages": [{"role": "user", "content": "hi"}], "stop": "\\udfff"}',
        b'{"model": "\\ud800", "messages": [{"role": "user", "content": "hi"}]}',
        b'{"model": "base", "\\ud800": 1, "messages": [{"role": "user", "content": "hi"}]}',
    ],
)  # fmt: skip
def test_nonsense_is_a_wrong_request(served, body):
    status, answer = post(served[1], body)
    assert status == 400 and json.loads(answer)["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("ids", [[-1], [10**6], [2**70], [True, "a"], [[]], [], [[1], ["a"]]])
def test_ids_that_are_none_are_a_wrong_request(served, ids):
    body = json.dumps({"model": "base", "prompt": ids}).encode()
    assert post(served[1], body, path="/v1/completions")[0] == 400


def test_a_body_that_is_too_large_is_refused_with_and_without_its_length(served):
    assert post(served[1], b" " * (2**20 + 1))[0] == 413
    chunked = OWN | {"transfer-encoding": "chunked"}
    link = http.client.HTTPConnection("127.0.0.1", served[1], timeout=30)
    link.putrequest("POST", "/v1/score")
    for name, value in chunked.items():
        link.putheader(name, value)
    link.endheaders()
    try:
        for _ in range(20):
            link.send(b"20000\r\n" + b" " * 0x20000 + b"\r\n")
        link.send(b"0\r\n\r\n")
    except OSError:  # the server has answered and does not read on
        pass
    assert link.getresponse().status == 413


def test_other_paths_and_methods_have_errors_of_the_same_form(served):
    assert "error" in json.loads(post(served[1], path="/v1/nothing")[1])
    status, body = post(served[1], path="/v1/models")
    assert status == 405 and "error" in json.loads(body)


def test_without_keys_only_programs_of_this_machine_are_served(served):
    from concordant.serve.app import create_app

    with running(create_app(served[2], None)) as port:
        assert post(port, headers=JSON)[0] == 200
        assert post(port, headers=JSON | {"host": "localhost:1"})[0] == 200
        assert post(port, headers=JSON | {"host": "evil.example"})[0] == 403
        assert post(port, headers=JSON | {"host": "127.0.0.1.evil.example:80"})[0] == 403
        assert post(port, headers=JSON | {"origin": "https://evil.example"})[0] == 403
        assert post(port, headers={"content-type": "text/plain"})[0] == 400
        assert post(port, path="/v1/score", body=b'{"input": "a"}', headers=JSON)[0] == 404


def test_keys_are_read_from_a_file(tmp_path, models):
    file = tmp_path / "keys"
    file.write_text("# ours\n\na-key-of-sufficient-length\n")
    assert read_keys(str(file)) == ["a-key-of-sufficient-length"]
    for text, says in (("", "has no key"), ("short", "at least 16"), ("a key with spaces in it", "no space")):
        file.write_text(text)
        with pytest.raises(UserError, match=says):
            read_keys(str(file))
    with pytest.raises(UserError, match="cannot be read"):
        read_keys(str(tmp_path / "none"))
    with pytest.raises(UserError, match="give --keys FILE"):
        open_server(config_of(models, host="0.0.0.0"))


def test_the_schema_finds_no_server_error(served):
    """Requests that are made from the OpenAPI schema, right and wrong ones. CONCORDANT_EXAMPLES asks for more."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.checks import not_a_server_error

    seen = []

    def check(case):
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = "base"  # or no example would come past the name
            case.body["max_tokens"] = 2
        answer = case.call(base_url=f"http://127.0.0.1:{served[1]}", headers={"authorization": f"Bearer {KEYS[0]}"})
        seen.append(answer.status_code)
        case.validate_response(answer, checks=[not_a_server_error])

    few = settings(
        max_examples=int(os.environ.get("CONCORDANT_EXAMPLES", 4)), deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck), derandomize=True, database=None,
    )  # fmt: skip
    for operation in schemathesis.openapi.from_dict(served[0].openapi()).get_all_operations():
        few(given(operation.ok().as_strategy())(check))()
    assert 200 in seen and max(seen) < 500
