"""A real server on loopback, in a thread of the test's process, over a tiny policy with two adapters."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from concordant.config.model import ModelConfig
from concordant.config.serving import ServeConfig
from concordant.models.load import load_policy, save_policy
from concordant.models.lora import apply_lora_to_model
from concordant.models.peft_files import save_adapter
from tests.engines.tiny import tiny_policy

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
openai = pytest.importorskip("openai")

KEYS = ["a-key-of-sufficient-length", "another-key-of-some-length"]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``base``, ``one`` and ``two``: a policy, and adapters that change its answers."""
    folder = tmp_path_factory.mktemp("served")
    save_policy(tiny_policy(), folder / "base")
    for seed, name in enumerate(("one", "two"), 1):
        policy = load_policy(ModelConfig(name=str(folder / "base")))
        apply_lora_to_model(policy.model, r=2, seed=seed)
        stream = torch.Generator().manual_seed(seed)
        for path, weight in policy.model.named_parameters():
            if "lora_B" in path:
                weight.data = 0.3 * torch.randn(weight.shape, generator=stream)
        save_adapter(policy.model, folder / name, str(folder / "base"))
    return folder


def config_of(models: Path, **settings: object) -> ServeConfig:
    adapters = [f"{name}={models / name}" for name in ("one", "two")]
    model = ModelConfig(name=str(models / "base"), device="cpu", precision="fp32")
    return ServeConfig(**{"model": model, "adapters": adapters, "context": 128, **settings})


@contextmanager
def running(app: object) -> Iterator[int]:
    """Serve ``app`` in a thread; gives the port."""
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(20)


class Scores:
    """Reward models of two members, without a model: the number of letters, and twice as many."""

    def score(self, texts):
        from concordant.serve.served import Score

        lengths = [len(t) if isinstance(t, str) else len(t[-1].content) for t in texts]
        return [Score(1.5 * n, [float(n), 2.0 * n], 0.5 * n) for n in lengths]


@pytest.fixture(scope="session")
def served(models: Path):
    """The application, the port, and what it serves."""
    from concordant.serve.app import create_app
    from concordant.serve.served import open_served

    opened = open_served(config_of(models, slots=64, queue=80))
    app = create_app(opened, Scores(), KEYS)
    with running(app) as port:
        yield app, port, opened


@pytest.fixture
def client(served):
    return openai.OpenAI(base_url=f"http://127.0.0.1:{served[1]}/v1", api_key=KEYS[0], max_retries=0, timeout=60)
