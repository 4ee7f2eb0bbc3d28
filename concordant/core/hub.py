"""One question to the Hugging Face hub before anything is loaded from it, so that a wrong name costs no long wait.

The libraries that load models and data try again and again where a hub cannot be reached. On a machine without a
network, a name that was mistyped would be waited for half a minute.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

from concordant.core.errors import UserError
from concordant.core.near_path import entries_beside
from concordant.core.time_limit import awaited_at_most

SECONDS = 6.0  # that the hub may take to answer; it usually takes less than one


@lru_cache(maxsize=64)
def ask(name: str, kind: Literal["model", "dataset"], option: str) -> None:
    """Raise UserError where the hub says that it has no such ``name``, or does not answer.

    Nothing is asked offline, or where the hub's cache has a folder for the name. ``option`` is the option that takes a
    path instead of a name.
    """
    import huggingface_hub  # slow to import; only names of a hub need it
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    cached = Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}"
    if constants.HF_HUB_OFFLINE or cached.is_dir():
        return
    none = f'"{name}" is no folder here'
    way_out = f"{entries_beside(Path(name))} Without a network, fetch it elsewhere and give its path: {option} PATH"
    unreachable = f"{none}, and the hub at {constants.ENDPOINT} does not answer.{way_out}"
    api = huggingface_hub.HfApi()
    try:
        awaited_at_most(SECONDS, unreachable, lambda: api.repo_info(name, repo_type=kind, timeout=SECONDS))
    except RepositoryNotFoundError:
        raise UserError(
            f"{none}, and the hub has no public {kind} of this name.{entries_beside(Path(name))} For a private one, "
            "log in with `hf auth login`"
        ) from None
    except HfHubHTTPError:
        return  # the hub answers; whoever loads from it says what it lacks
    except UserError:
        raise
    except Exception as error:  # no route, no name server, a proxy that refuses: each HTTP library has its own
        raise UserError(unreachable) from error
