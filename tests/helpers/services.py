"""A running service with a small network."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import torch
import uvicorn

from p3d.model.network import create_model
from p3d.preprocessing import IMAGENET
from p3d.serve.app import create_app
from p3d.serve.options import Limits, ServeOptions
from p3d.serve.service import Service
from p3d.weights.metadata import save_model

CLASSES = ("walk", "<run>", "skip")


def write_weights(path: Path, fps: float | None = None) -> Path:
    """Write a network whose answers differ from video to video."""
    torch.manual_seed(0)
    model = create_model("p3d63", num_classes=len(CLASSES))
    torch.nn.init.normal_(model.fc.weight, std=0.05)
    model.class_names = CLASSES
    model.preprocessing = replace(IMAGENET, num_frames=4, resize=(18, 24), crop=16, fps=fps)
    save_model(model.eval(), path)
    return path


@contextmanager
def running(
    weights: Path, *, token: str | None = None, limits: dict[str, Any] | None = None, **changes: Any
) -> Iterator[tuple[httpx.Client, Service]]:
    """Serve in a thread; yield a client and the service."""
    changes = {"clips": 3, "decoders": 1, "window": 0.0} | changes
    options = ServeOptions(weights, limits=Limits(**(limits or {})), **changes)
    with closing(Service(options)) as service:
        config = uvicorn.Config(
            create_app(service, token), port=0, lifespan="off", log_level="critical", ws="none"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=asyncio.run, args=(server.serve(),))
        thread.start()
        try:
            wait_for(lambda: server.started)
            port = server.servers[0].sockets[0].getsockname()[1]
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
                yield client, service
        finally:
            server.should_exit = True
            thread.join()


def wait_for(condition: Callable[[], object], seconds: float = 600.0) -> None:
    """Wait until a condition is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not become true"
        time.sleep(0.02)


def problem(response: httpx.Response) -> tuple[int, str]:
    """Return the status and the detail of a problem."""
    assert response.headers["content-type"] == "application/problem+json"
    content = response.json()
    assert content["status"] == response.status_code
    assert content["type"] == "about:blank"
    assert content["title"]
    return content["status"], content["detail"]
