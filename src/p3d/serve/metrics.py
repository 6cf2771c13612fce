"""What `/metrics` reports."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of one service.

    Attributes:
        requests: Requests by path and status.
        seconds: Time from the first byte of a request to its answer, by path.
        decoding: Time to decode a video, with waiting for a decoder.
        batch_clips: Clips of each batch.
    """

    def __init__(
        self,
        accepted: Callable[[], float],
        uploads: Callable[[], float],
        failures: Callable[[], float],
    ) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("p3d_requests", "Requests.", ("path", "status"), registry=registry)
        self.seconds = Histogram(
            "p3d_request_seconds",
            "Time of a request.",
            ("path",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.decoding = Histogram(
            "p3d_decode_seconds", "Time to decode a video.", buckets=_SECONDS, registry=registry
        )
        self.batch_clips = Histogram(
            "p3d_batch_clips",
            "Clips of a batch.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        for name, text, read in (
            ("p3d_accepted_requests", "Requests accepted and not yet answered.", accepted),
            ("p3d_uploads", "Uploads at present.", uploads),
            ("p3d_decoder_failures", "Decoders that died or were killed.", failures),
        ):
            Gauge(name, text, registry=registry).set_function(read)

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)
