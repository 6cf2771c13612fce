"""`/v1/timeline`, a job, and `/v1/explain`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from helpers.services import CLASSES, problem, running, wait_for, write_weights
from helpers.videos import write_video
from p3d.data.transforms import eval_transform
from p3d.evaluation.gradcam import grad_cam
from p3d.inference.predictor import Predictor
from p3d.inference.timeline.calibrated import kept_values
from p3d.inference.timeline.cut_options import CutOptions
from p3d.preprocessing import normalize
from p3d.serve.service import Service
from p3d.video.decode import open_video
from p3d.video.sources import gather
from p3d.weights.loading import load_model
from p3d.weights.metadata import save_model

pytestmark = pytest.mark.usefixtures("narrow_networks")

Running = tuple[httpx.Client, Service]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("timeline")
    write_weights(root / "net.safetensors")
    write_video(root / "a.avi", 60)
    (root / "bad.avi").write_bytes(b"no video")
    return root


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Running]:
    with running(folder / "net.safetensors", root=folder, limits={"max_jobs": 2}) as found:
        yield found


def start(client: httpx.Client, path: Path, **query: Any) -> httpx.Response:
    with path.open("rb") as file:
        return client.post("/v1/timeline", files={"video": (path.name, file)}, params=query)


def finish(client: httpx.Client, response: httpx.Response, **query: Any) -> dict[str, Any]:
    assert response.status_code == 202, response.text
    place, found = response.headers["location"], dict[str, Any]()

    def has_ended() -> bool:
        found.update(client.get(place, params=query).json())
        return found["state"] in ("done", "failed")

    wait_for(has_ended)
    return found


def test_a_timeline_is_that_of_a_predictor(service: Running, folder: Path) -> None:
    client, behind = service
    cut = {"smooth": 0.1, "high": 0.4, "low": 0.3, "shortest": 0.1, "merge": 0.1}
    predictor = Predictor(folder / "net.safetensors", device="cpu")
    expected = predictor.timeline(folder / "a.avi", stride=0.2, cut=CutOptions(**cut))
    found = finish(client, start(client, folder / "a.avi", stride=0.2, **cut), scores=True)
    assert (found["state"], found["progress"]) == ("done", 1.0)
    timeline = found["timeline"]
    assert (timeline["video"], timeline["seconds"]) == ("a.avi", 2.4)
    assert timeline["times"] == pytest.approx(expected.times.tolist(), abs=1e-3)
    for ours, theirs in zip(timeline["scores"], expected.scores.tolist(), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert expected.segments
    assert [(s["class"], s["start"], s["end"]) for s in timeline["segments"]] == [
        (s.label, round(s.start, 3), round(s.end, 3)) for s in expected.segments
    ]
    assert not list(behind.folder.path.iterdir())


def test_segments_are_cut_as_the_weights_say(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder / "net.safetensors")
    kept = CutOptions(smooth=0, high=0.34, low=0.3, shortest=0, merge=0)
    model.calibration = kept_values(kept)
    save_model(model, tmp_path / "kept.safetensors")
    expected = Predictor(tmp_path / "kept.safetensors", device="cpu").timeline(folder / "a.avi")
    assert expected.segments == expected.cut(kept).segments != expected.cut(CutOptions()).segments
    with running(tmp_path / "kept.safetensors") as (client, _):
        found = finish(client, start(client, folder / "a.avi"))["timeline"]
        assert len(found["segments"]) == len(expected.segments)
        loose = finish(client, start(client, folder / "a.avi", high=1))["timeline"]
        assert not loose["segments"]
        assert problem(start(client, folder / "a.avi", high=0.2, low=0.3))[0] == 422
        assert finish(client, start(client, folder / "a.avi", high=0.2))["state"] == "done"


def test_a_job_can_be_canceled_and_jobs_are_limited(
    service: Running, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client, behind = service
    with behind.turn:  # nothing is scored meanwhile
        first = start(client, folder / "a.avi", stride=0.01)
        second = client.post("/v1/timeline", json={"path": "a.avi"})
        assert (first.status_code, second.status_code) == (202, 202)
        assert problem(start(client, folder / "a.avi")) == (
            503,
            "2 jobs wait, the limit; try again later",
        )
        for response in (first, second):
            place = response.headers["location"]
            assert client.delete(place).json()["state"] == "canceled"
            assert problem(client.get(place))[0] == 404
        assert not list(behind.folder.path.iterdir())
    assert finish(client, start(client, folder / "a.avi"))["state"] == "done"
    assert capsys.readouterr().err == ""  # no decoder that died is reported
    assert behind.decoders.failures == 0


def test_jobs_that_fail(service: Running, folder: Path) -> None:
    client = service[0]
    found = finish(client, start(client, folder / "bad.avi"))
    assert found["state"] == "failed"
    assert found["problem"]["status"] == 422
    assert found["problem"]["detail"].startswith("bad.avi: not a video that FFmpeg can read")
    assert problem(start(client, folder / "a.avi", high=2))[0] == 422
    assert problem(start(client, folder / "a.avi", stride=0))[0] == 422
    assert problem(client.get("/v1/timeline/none"))[0] == 404
    assert problem(client.delete("/v1/timeline/none"))[0] == 404
    refused = client.put("/v1/timeline/none")
    assert (problem(refused)[0], refused.headers["allow"]) == (405, "DELETE, GET, HEAD")


def test_too_many_windows(folder: Path) -> None:
    with running(folder / "net.safetensors", limits={"max_frames": 60}) as (client, _):
        found = finish(client, start(client, folder / "a.avi", stride=0.002))
    assert found["problem"]["detail"] == (
        "a.avi: has more than 60 windows, the limit of this service; give a longer stride"
    )


def test_an_explanation_is_that_of_grad_cam(service: Running, folder: Path) -> None:
    path = folder / "a.avi"
    with path.open("rb") as file:
        found = service[0].post(
            "/v1/explain", files={"video": ("a.avi", file)}, params={"class": "<run>", "time": 1.0}
        )
    answer = found.json()
    assert answer["class"] == "<run>"
    assert (answer["start"], answer["end"]) == (0.96, 1.12)
    assert answer["box"] == pytest.approx([4 / 24, 1 / 18, 16 / 24, 16 / 18])
    model = load_model(folder / "net.safetensors").eval()
    with open_video(path) as video:
        transform = eval_transform(video.height, video.width, model.preprocessing)
        clip = gather(video, range(24, 28), None, transform)[:, 0]
    _, maps = grad_cam(model, normalize(clip[None], model.preprocessing), 1, "res4")
    expected = maps[0] / maps.max().clamp_min(1e-12)
    assert torch.allclose(torch.tensor(answer["maps"]), expected, atol=2e-3)


def test_what_cannot_be_explained(service: Running) -> None:
    for query in ({"class": "none"}, {"time": -1}, {"time": "nan"}):
        response = service[0].post("/v1/explain", json={"path": "a.avi"}, params=query)
        assert problem(response)[0] == 422, query
    answer = service[0].post("/v1/explain", json={"path": "a.avi"}, params={"time": 1e9})
    assert answer.json()["class"] in CLASSES
