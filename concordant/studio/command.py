"""``concordant studio``: opens the local web application over run folders."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from concordant.config.checks import checked
from concordant.config.stages import StudioConfig
from concordant.core.addresses import is_loopback, listen
from concordant.core.errors import UserError
from concordant.studio.columns import load_reader
from concordant.studio.settings import Settings

if TYPE_CHECKING:
    import uvicorn


@checked
def open_studio(config: StudioConfig) -> None:
    """Serve the studio until Ctrl-C. Prints one link, which holds the owner's token."""
    try:
        import concordant.studio.app  # noqa: F401  # imports all that the studio needs
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
        threading.Thread(target=load_reader, daemon=True).start()  # before somebody opens a long run
        try:
            server_of(settings).run(sockets=[listener])
        except KeyboardInterrupt:  # the way to end a server
            print("the studio is closed", file=sys.stderr)


def server_of(settings: Settings) -> uvicorn.Server:
    """The server of the studio, which runs on sockets that are open already."""
    import uvicorn

    from concordant.studio.app import create_app

    return uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            http="h11",  # whose limits are given here
            log_level="warning",
            access_log=False,  # the link with the token would stand in it
            server_header=False,
            proxy_headers=False,  # a visitor could name another address by them
            timeout_graceful_shutdown=2,
            h11_max_incomplete_event_size=2**16,
        )
    )


def _folder_of_runs(given: str) -> Path:
    folder = Path(given).expanduser()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--runs {given} is a file; expected a folder of runs")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"cannot make the folder --runs {given}: {problem.strerror}") from None
    return folder.resolve()
