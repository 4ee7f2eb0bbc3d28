"""``concordant serve``: opens the models, listens, and answers until Ctrl-C."""

from __future__ import annotations

import sys
from pathlib import Path

from concordant.config.checks import checked
from concordant.config.serving import ServeConfig
from concordant.core.addresses import in_url, is_loopback, listen
from concordant.core.errors import UserError
from concordant.core.visible import visible


@checked
def open_server(config: ServeConfig) -> None:
    """Serve a policy, its adapters and reward models to OpenAI's clients until Ctrl-C."""
    try:
        import uvicorn

        from concordant.serve.app import create_app
    except ModuleNotFoundError as missing:
        raise UserError(f"the server needs {missing.name}; install it by pip install 'concordant[serve]'") from None
    from concordant.serve.served import open_scorers, open_served

    keys = read_keys(config.keys) if config.keys else []
    if not keys and not is_loopback(config.host):
        raise UserError(f"--host {config.host} can be reached from other machines; give --keys FILE, one key a line")
    with listen(config.host, config.port) as listener:
        served, scorers = open_served(config), open_scorers(config)
        address = f"http://{in_url(config.host)}:{listener.getsockname()[1]}/v1"
        print(visible(f"serving {', '.join(served.models)} at {address}"), file=sys.stderr, flush=True)
        settings = uvicorn.Config(
            create_app(served, scorers, keys),
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,  # a caller could name another address by them
            timeout_graceful_shutdown=5,
            h11_max_incomplete_event_size=2**16,
        )
        try:
            uvicorn.Server(settings).run(sockets=[listener])
        except KeyboardInterrupt:  # the way to end a server
            print("the server is closed", file=sys.stderr)


def read_keys(file: str) -> list[str]:
    """The API keys in ``file``, one on each line. Empty lines and lines that begin with # are left out."""
    from concordant.serve.gate import SHORTEST_KEY

    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise UserError(f"--keys {file} cannot be read: {getattr(problem, 'strerror', None) or problem}") from None
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise UserError(f"--keys {file} has no key; write one key on each line")
    for key in keys:
        if len(key) < SHORTEST_KEY or not key.isascii() or " " in key:
            raise UserError(f"--keys {file}: a key has at least {SHORTEST_KEY} letters, digits or signs, and no space")
    return keys
