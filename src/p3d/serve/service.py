"""The network behind the service: from a file to an answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from starlette.requests import Request
from torch import Tensor

from p3d import __version__
from p3d.data.sampling import seen_fraction
from p3d.errors import UserError
from p3d.inference.arguments import local_path
from p3d.inference.clip_plan import plan_clips, settled_threshold
from p3d.inference.exported import ExportedNetwork
from p3d.inference.networks import chosen_backend, load_network, make_scorer
from p3d.inference.prediction import Prediction
from p3d.inference.scorer import Scorer, mean_probabilities
from p3d.serve.admission import Admission
from p3d.serve.batcher import Batcher
from p3d.serve.decoder import DecoderSettings
from p3d.serve.decoding import Decoded, DecoderPool
from p3d.serve.explainer import Explainer, Explanation
from p3d.serve.jobs import Jobs
from p3d.serve.metrics import Metrics
from p3d.serve.options import ServeOptions
from p3d.serve.problems import Problem
from p3d.serve.uploads import TemporaryFolder, content_type, receive_path, receive_upload
from p3d.system.device import resolve_device
from p3d.system.files import file_sha256
from p3d.system.machine import num_cores
from p3d.system.resources import can_limit_memory
from p3d.weights.loading import find_weights

T = TypeVar("T")

_MOST_DECODERS = 8


@dataclass(frozen=True)
class Answer:
    """What the network says of a video.

    Attributes:
        name: The video, as the request calls it.
        prediction: Its classes.
        decoded: Its clips.
        used: Positions of the clips that the answer takes, in the order of time.
        probabilities: float32 `(len(used), num_classes)`, of each of these.
        features: float32 `(2048,)`, if they were asked for.
    """

    name: str
    prediction: Prediction
    decoded: Decoded
    used: list[int]
    probabilities: Tensor
    features: Tensor | None


class Service:
    """A network, the processes that decode for it, and the requests that wait for it.

    Args:
        options: Of `p3d serve`.

    Attributes:
        limits: Limits of a request.
        metrics: What `/metrics` reports.
        folder: Where uploads go.
        admission: Which requests are accepted.
        jobs: Timelines that are made.

    Raises:
        UserError: The weights cannot be read, or the device is not available.
    """

    def __init__(self, options: ServeOptions) -> None:
        self.options, self.limits = options, options.limits
        compute = options.compute
        self._path = find_weights(local_path(options.weights, "weights"))
        backend = chosen_backend(options.backend, compiled=compute.compile)
        self.network = load_network(self._path, backend)
        self.scorer = make_scorer(
            self.network,
            resolve_device(compute.device),
            compute.precision,
            backend=backend,
            batch_size=options.batch_size,
        )
        settled, _ = settled_threshold(self.network.calibration)
        self._plan = plan_clips(options.clips, settled, self.scorer.batch_size)
        names = self.network.class_names
        self.class_names = names or tuple(map(str, range(self.scorer.num_classes)))
        self.admission = Admission(self.limits)
        self._start()

    def _start(self) -> None:
        settings = DecoderSettings(self.network.preprocessing, self._plan.num_clips, self.limits)
        count = self.options.decoders or min(num_cores(), _MOST_DECODERS)
        self.folder = TemporaryFolder()
        self.decoders = DecoderPool(settings, count)
        self.metrics = Metrics(
            lambda: self.admission.accepted,
            lambda: self.admission.uploads,
            lambda: self.decoders.failures,
        )
        self.turn = threading.Lock()
        self._batcher = self._make_batcher(self.scorer)
        self.jobs = Jobs(
            self.decoders, self._batcher, self.limits, self.class_names, self.scorer.temperature
        )
        self._explainer = Explainer(self.network, self.scorer, self.turn)
        self._start_features = threading.Lock()

    def _make_batcher(self, scorer: Scorer) -> Batcher:
        each = self.metrics.batch_clips.observe
        return Batcher(scorer, self.options.window / 1000, self.turn, each)

    @cached_property
    def about(self) -> dict[str, Any]:
        """What `GET /v1/model` answers."""
        limits = self.limits.describe(memory=can_limit_memory())
        return {
            "version": __version__,
            "network": self.network.config.name,
            "weights": self._path.name,
            "sha256": file_sha256(self._path),
            "classes": list(self.class_names),
            "preprocessing": asdict(self.network.preprocessing),
            "clips": self.options.clips,
            "device": str(self.scorer.device),
            "precision": self.scorer.precision,
            "features": self.has_features,
            "paths": self.options.root is not None,
            "token": self.options.token_file is not None,
            "limits": {name: limit._asdict() for name, limit in limits.items()},
        }

    @property
    def has_features(self) -> bool:
        """Whether the network gives features; an exported file does not."""
        return not isinstance(self.network, ExportedNetwork)

    @property
    def is_healthy(self) -> bool:
        """Whether requests can be answered."""
        return self._batcher.is_alive()

    @property
    def pending(self) -> int:
        """Requests and jobs that are to be answered before the service stops."""
        return self.admission.accepted + self.jobs.unseen

    async def receive(self, request: Request, stack: ExitStack) -> tuple[Path, str]:
        """Return the video of a request and its name.

        Args:
            request: The request.
            stack: Deletes what was uploaded.

        Raises:
            Problem: The video cannot be received.
        """
        kind = content_type(request)
        if kind == "multipart/form-data":
            folder = stack.enter_context(self.folder.file())
            with self.admission.upload():
                return await receive_upload(request, folder, self.limits)
        if kind == "application/json":
            return await receive_path(request, self.options.root, self.limits)
        raise Problem(415, f"the body is {kind or 'of no type'}; send multipart/form-data or JSON")

    async def predict(self, path: Path, name: str, *, features: bool = False) -> Answer:
        """Predict the classes of a video.

        Args:
            path: The file or folder.
            name: What to call it in messages.
            features: Compute its features too.

        Raises:
            Problem: It cannot be read, or takes too long.
        """
        deadline = time.monotonic() + self.limits.request_seconds
        return await self._in_time(name, self._predict(path, name, features, deadline))

    async def _in_time(self, name: str, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of work on a request, within its time."""
        seconds = self.limits.request_seconds
        try:
            return await asyncio.wait_for(work, seconds)
        except asyncio.TimeoutError:
            raise Problem(
                504,
                f"{name}: no answer within {seconds:g} s, the limit; send a shorter video or "
                "try again when the service has less to do",
            ) from None
        except UserError as error:  # outputs that are not finite, for example
            raise Problem(500, f"{name}: {error}") from error

    async def _predict(self, path: Path, name: str, features: bool, deadline: float) -> Answer:
        with self.metrics.decoding.time():
            decoded = await asyncio.wrap_future(self.decoders.submit(path, name, deadline))
        logits = await self._score(decoded.clips)
        pooled = None
        if features:
            batcher = await asyncio.to_thread(self._features)
            pooled = (await asyncio.wrap_future(batcher.submit(decoded.clips))).mean(0)
        numbers = list(self._plan.order[: len(logits)])
        logits = logits[torch.tensor(numbers).argsort()] / self.scorer.temperature
        used = sorted(numbers)
        seen = seen_fraction(decoded.windows[used], decoded.length)
        prediction = Prediction(
            None,
            mean_probabilities(logits),
            self.class_names,
            decoded.num_frames,
            seen,
            len(used),
        )
        return Answer(name, prediction, decoded, used, logits.softmax(-1), pooled)

    async def _score(self, clips: Tensor) -> Tensor:
        """Return logits of the clips that the answer takes, in the order of the plan."""
        done = torch.empty(0, self.scorer.num_classes)
        for number, group in enumerate(self._plan.groups, 1):
            part = await asyncio.wrap_future(self._batcher.submit(clips[list(group)]))
            done = torch.cat([done, part])
            used = self._plan.used(done, number)
            if used is not None:
                return done[:used]
        raise AssertionError("the last group settles every plan")

    def _features(self) -> Batcher:
        with self._start_features:
            return self._feature_batcher

    @cached_property
    def _feature_batcher(self) -> Batcher:
        """Computes features; made when it is first needed, since it takes as much memory again."""
        make = partial(Scorer, layer="pool5", batch_size=self.scorer.batch_size)
        scorer = make(self.network, self.scorer.device, self.options.compute.precision)
        return self._make_batcher(scorer)

    async def explain(
        self, path: Path, name: str, target: int | None, seconds: float | None
    ) -> Explanation:
        """Find where a network looks for a class in the clip around a time of a video.

        Args:
            path: The file or folder.
            name: What to call it in messages.
            target: The class; None for the most likely one.
            seconds: The time; None for the middle of the video.

        Raises:
            Problem: The video cannot be read, or takes too long.
        """
        limit = self.limits.request_seconds
        deadline = time.monotonic() + limit

        async def work() -> Explanation:
            found = self.decoders.submit_clip(path, name, seconds, deadline)
            about, clip = await asyncio.wrap_future(found)
            return await asyncio.to_thread(self._explainer.explain, about, clip, target)

        return await self._in_time(name, work())

    def close(self) -> None:
        """End the threads and processes, and remove the folder of uploads."""
        self.admission.is_stopping = True
        self.jobs.close()
        self.decoders.close()
        self._batcher.close()
        if "_feature_batcher" in vars(self):
            self._feature_batcher.close()
        self.folder.close()
