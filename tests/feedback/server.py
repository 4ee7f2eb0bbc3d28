"""A real HTTP server in a thread that answers as a script tells it to. No test asks another machine."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def chat(text, tokens=(7, 3)):
    """The body of a chat completion."""
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage})


def status(code, body="", **headers):
    """A deed that answers with a status."""

    def deed(handler, asked):
        handler.answer(code, body, {name.replace("_", "-"): str(value) for name, value in headers.items()})

    return deed


def stall(seconds):
    def deed(handler, asked):
        time.sleep(seconds)

    return deed


def drip(seconds):
    """One byte now and then, so that no single wait is long."""

    def deed(handler, asked):
        handler.send_response(200)
        handler.end_headers()
        until = time.monotonic() + seconds
        with contextlib.suppress(OSError):
            while time.monotonic() < until:
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(0.05)

    return deed


def hang_up(handler, asked):
    handler.close_connection = True
    handler.connection.close()


class Judge:
    """``deeds`` come first, one for each request; then ``says`` answers, from the last message of the request."""

    def __init__(self, says, deeds=()):
        self.says, self.deeds = says, list(deeds)
        self.asked, self.headers, self.bodies = Counter(), [], []
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def answer(self, code, body, headers=None):
                data = body.encode() if isinstance(body, str) else body
                self.send_response(code)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                asked = body["messages"][-1]["content"]
                with judge.lock:
                    judge.asked[asked] += 1
                    judge.headers.append(dict(self.headers))
                    judge.bodies.append(body)
                    deed = judge.deeds.pop(0) if judge.deeds else None
                if deed is None:
                    self.answer(200, chat(judge.says(asked)))
                else:
                    deed(self, asked)

            def do_GET(self):  # a redirect that was followed would come here
                with judge.lock:
                    judge.asked["GET"] += 1
                self.answer(200, chat("Better: first"))

        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def first_and_second(asked):
    """The two answers in a comparison."""
    first = asked.split("<first>\n")[1].split("\n</first>")[0]
    return first, asked.split("<second>\n")[1].split("\n</second>")[0]


def likes_longer(asked):
    """A fair judge, which prefers the longer answer."""
    first, second = map(len, first_and_second(asked))
    return "A reason.\nBetter: " + ("tie" if first == second else "first" if first > second else "second")
