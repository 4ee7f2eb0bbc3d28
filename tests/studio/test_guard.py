"""Who may send what: rows 22 to 25 of the faults that the studio must withstand, and the headers of its pages."""

from __future__ import annotations

import pytest

from concordant.studio.access import Buckets, Guests
from concordant.studio.folders import UnknownRun, folder_of
from tests.studio.visitor import TOKEN, csrf, studio, visitor, write_run

PAGE = {"accept": "text/html"}


@pytest.fixture
def app(tmp_path):
    app = studio(tmp_path)

    @app.post("/api/change")
    def change() -> dict[str, bool]:
        return {"changed": True}

    app.router.routes.insert(0, app.router.routes.pop())  # before the static files
    return app


def test_a_page_allows_no_inline_script_and_no_other_server(app):
    policy = visitor(app).get("/", headers=PAGE).headers["content-security-policy"]
    assert "unsafe" not in policy and "http" not in policy and "default-src 'none'" in policy


def test_loopback_needs_no_token_and_the_network_does(tmp_path):
    assert visitor(studio(tmp_path)).get("/api/runs").status_code == 200
    app = studio(tmp_path, host="0.0.0.0")
    stranger = visitor(app, "http://10.0.0.7:8700")
    for path in ("/", "/api/runs", "/api/openapi.json", "/api", "/api/session", "/nowhere"):
        assert stranger.get(path, headers=PAGE).status_code == 401, path
    assert visitor(app, "http://10.0.0.7:8700", token=TOKEN).get("/api/runs").status_code == 200
    assert visitor(app, "http://10.0.0.7:8700", token="wrong").get("/api/runs").status_code == 401


def test_the_printed_link_gives_a_cookie_that_scripts_and_other_sites_cannot_use(tmp_path):
    browser = visitor(studio(tmp_path, host="0.0.0.0"), "http://10.0.0.7:8700")
    answer = browser.get("/enter", params={"token": TOKEN}, headers=PAGE)
    (cookie,) = [c for c in answer.headers.get_list("set-cookie") if TOKEN in c]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert browser.get("/api/session").json()["role"] == "owner"


def test_a_changing_request_needs_the_csrf_token_of_the_same_browser(app):
    browser, other = visitor(app), visitor(app)
    assert browser.post("/api/change").status_code == 403
    assert browser.post("/api/change", headers=csrf(other)).status_code == 403
    assert browser.post("/api/change", headers=csrf(browser)).json() == {"changed": True}


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8701"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_cross_site_post_is_refused_even_with_all_secrets(app, headers):
    browser = visitor(app)
    assert browser.post("/api/change", headers=csrf(browser) | headers).status_code == 403
    assert visitor(app, token=TOKEN).post("/api/change", headers=headers).status_code == 403
    same = {"origin": "http://127.0.0.1:8700", "sec-fetch-site": "same-origin"}
    assert browser.post("/api/change", headers=csrf(browser) | same).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8700", "localhost.evil.example", "10.0.0.7", "", "[::1"]
)
def test_a_foreign_host_name_is_refused(app, host):
    refused = visitor(app).get("/api/runs", headers={"host": host})
    assert refused.status_code == (200 if host == "[::1" else 403)


def test_a_program_with_the_token_needs_no_csrf_token(app):
    assert visitor(app, token=TOKEN).post("/api/change").json() == {"changed": True}


def test_too_large_a_body_is_refused_however_it_is_sent(app):
    owner = visitor(app, token=TOKEN)
    assert owner.post("/api/change", content=b"x" * (2**20 + 1)).status_code == 413
    assert owner.post("/api/change", content=(b"x" * 2**18 for _ in range(5))).status_code == 413
    assert owner.post("/api/change", content=b"x" * 2**20).status_code == 200


def test_too_many_requests_wait_and_other_visitors_do_not(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    buckets = Buckets(2.0, burst=4)
    assert [buckets.take("a") for _ in range(5)] == [True] * 4 + [False]
    assert buckets.take("b")
    clock[0] = 0.5  # one request came back
    assert [buckets.take("a"), buckets.take("a")] == [True, False]


def test_wrong_tokens_are_limited(tmp_path):
    guesser = visitor(studio(tmp_path, host="0.0.0.0"), "http://10.0.0.7:8700")
    codes = [guesser.get("/enter", params={"token": f"guess{i}"}).status_code for i in range(12)]
    assert codes == [401] * 10 + [429] * 2


def test_a_guest_uses_his_page_alone(tmp_path):
    app = studio(tmp_path, host="0.0.0.0")

    async def learn(token):
        """Everything is known."""

    app.state.access.guests.append(Guests(("/ask", "/api/ask"), lambda token: token == "rater", learn))
    guest = visitor(app, "http://10.0.0.7:8700", token="rater")
    assert guest.get("/api/runs").status_code == 403 and guest.get("/").status_code == 403
    assert guest.get("/api/ask/nothing").status_code == 404
    assert guest.get("/api/session").json()["role"] == "guest"


# -- paths --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["..", "../secret", "a/../../secret", "/etc", "%2e%2e/secret", "a//..", ".hidden", "out", "a/out", "loop", "files"]
    + ["a\0b", "x" * 5000, "\ud800", "~", "a/..", ".", ""],
)
def test_no_name_leads_out_of_the_folder_of_runs(tmp_path, name):
    runs = tmp_path / "runs"
    write_run(runs / "a"), write_run(tmp_path / "secret"), write_run(runs / ".hidden")
    (runs / "out").symlink_to(tmp_path / "secret")
    (runs / "a" / "out").symlink_to(tmp_path / "secret")
    (runs / "loop").symlink_to(runs / "loop")
    write_run(runs / "files")
    (runs / "files" / "samples.jsonl").symlink_to(tmp_path / "secret" / "config.yaml")
    client = visitor(studio(runs))
    assert [run["run"] for run in client.get("/api/runs").json()] == ["a"]
    with pytest.raises(UnknownRun):
        folder_of(runs, name)


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd"]
)
def test_static_files_are_the_static_files_alone(app, path):
    assert visitor(app).get(path).status_code == 404
