"""``concordant studio``: opens the local web application over run folders."""

from __future__ import annotations

import sys
from pathlib import Path

from concordant.config.checks import checked
from concordant.config.stages import StudioConfig
from concordant.core.addresses import is_loopback, listen
from concordant.core.errors import UserError
from concordant.studio.settings import Settings


@checked
def open_studio(config: StudioConfig) -> None:
    """Serve the studio until Ctrl-C. Prints one link, which holds the owner's token."""
    try:
        import uvicorn

        from concordant.studio.app import create_app
    except ModuleNotFoundError as missing:
        raise UserError(f"the studio needs {missing.name}; install it by pip install 'concordant[studio]'") from None
    runs = _folder_of_runs(config.runs)
    with listen(config.host, config.port) as listener:
        settings = Settings(
            runs=runs,
            host=config.host,
            port=listener.getsockname()[1],
            names=tuple(config.names),
            votes=config.votes,
            requests_per_second=config.requests_per_second,
        )
        link = f"{settings.address}/enter?token={settings.token}"
        print(f"the studio over {runs}: {link}", file=sys.stderr)
        if not is_loopback(config.host):
            print(
                "other machines reach the studio, and nothing is encrypted: give the link to no stranger",
                file=sys.stderr,
            )
        if config.open:
            import webbrowser

            webbrowser.open(link)
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(settings),
                log_level="warning",
                access_log=False,  # the link with the token would stand in it
                server_header=False,
                proxy_headers=False,  # a visitor could name another address by them
                timeout_graceful_shutdown=2,
                h11_max_incomplete_event_size=2**16,
            )
        )
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:  # the way to end a server
            print("the studio is closed", file=sys.stderr)


def _folder_of_runs(given: str) -> Path:
    folder = Path(given).expanduser()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--runs {given} is a file; expected a folder of runs")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"cannot make the folder --runs {given}: {problem.strerror}") from None
    return folder.resolve()
