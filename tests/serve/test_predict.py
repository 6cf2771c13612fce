"""`POST /v1/predict`: answers, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from helpers.services import CLASSES, problem, running, wait_for, write_weights
from helpers.videos import write_frames, write_video
from p3d.cli import main
from p3d.inference.predictor import Predictor
from p3d.serve.service import Service

pytestmark = pytest.mark.usefixtures("narrow_networks")

Running = tuple[httpx.Client, Service]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("serve")
    write_weights(root / "net.safetensors")
    (root / "videos").mkdir()
    write_video(root / "videos" / "a.avi", 40)
    write_video(root / "videos" / "b.mp4", 12, size=(48, 96))
    write_frames(root / "videos" / "frames", 9)
    (root / "videos" / "bad.avi").write_bytes(b"no video")
    (root / "secret.avi").write_bytes((root / "videos" / "a.avi").read_bytes())
    (root / "videos" / "link.avi").symlink_to(root / "secret.avi")
    write_frames(root / "videos" / "linked", 3)
    next((root / "videos" / "linked").iterdir()).unlink()
    (root / "videos" / "linked" / "f-9.jpg").symlink_to(root / "secret.avi")
    return root


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Running]:
    with running(folder / "net.safetensors", root=folder / "videos") as found:
        yield found


@pytest.fixture(scope="module")
def strict(folder: Path) -> Iterator[Running]:
    """A service with a token and limits that all videos of these tests exceed."""
    limits = {"max_bytes": 20000, "max_frames": 39, "max_seconds": 0.4, "max_pixels": 5000}
    limits |= {"upload_seconds": 0.5, "max_uploads": 1, "max_queue": 2}
    with running(folder / "net.safetensors", token="s3cret", limits=limits) as found:
        found[0].headers["Authorization"] = "Bearer s3cret"
        yield found


def upload(client: httpx.Client, path: Path, **query: object) -> httpx.Response:
    with path.open("rb") as file:
        return client.post("/v1/predict", files={"video": (path.name, file)}, params=query)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a.avi", "b.mp4"])
def test_an_upload_gets_the_answer_of_the_command(
    name: str,
    service: Running,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder / "videos")
    weights = str(folder / "net.safetensors")
    flags = ["--weights", weights, "--clips", "3", "--device", "cpu", "--json"]
    assert main(["predict", *flags, name]) == 0
    expected = json.loads(capsys.readouterr().out)
    answer = upload(service[0], Path(name)).json()
    assert {key: answer[key] for key in ("video", "frames", "seen")} == {
        key: expected[key] for key in ("video", "frames", "seen")
    }
    assert [each["class"] for each in answer["top"]] == [each["class"] for each in expected["top"]]
    for ours, theirs in zip(answer["top"], expected["top"], strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=2e-6)


def test_features_and_all_scores_are_those_of_a_predictor(service: Running, folder: Path) -> None:
    path = folder / "videos" / "a.avi"
    predictor = Predictor(folder / "net.safetensors", device="cpu", clips=3)
    answer = upload(service[0], path, scores=True, features=True, windows=True, top=1).json()
    assert len(answer["top"]) == 1
    assert answer["scores"] == pytest.approx(predictor(path).scores.tolist(), abs=1e-5)
    assert answer["features"] == pytest.approx(predictor.features(path).mean(0).tolist(), abs=1e-4)
    assert [window["start"] for window in answer["windows"]] == [0.0, 0.72, 1.44]
    assert [window["end"] for window in answer["windows"]] == [0.16, 0.88, 1.6]
    for number, score in enumerate(answer["scores"]):
        mean = sum(window["scores"][number] for window in answer["windows"]) / 3
        assert mean == pytest.approx(score, abs=1e-6)


def test_auto_takes_the_clips_of_the_command(folder: Path) -> None:
    path = folder / "videos" / "a.avi"
    expected = Predictor(folder / "net.safetensors", device="cpu", clips="auto")(path)
    with running(folder / "net.safetensors", clips="auto") as (client, _):
        answer = upload(client, path, scores=True).json()
    assert answer["clips"] == expected.num_clips
    assert answer["seen"] == round(expected.seen, 4)
    assert answer["scores"] == pytest.approx(expected.scores.tolist(), abs=1e-5)


def test_weights_with_a_rate_get_the_answer_of_a_predictor(folder: Path) -> None:
    weights, path = write_weights(folder / "rate.safetensors", fps=7.0), folder / "videos" / "a.avi"
    expected = Predictor(weights, device="cpu", clips=2)(path)
    with running(weights, clips=2) as (client, _):
        answer = upload(client, path, scores=True, windows=True).json()
    assert answer["scores"] == pytest.approx(expected.scores.tolist(), abs=1e-5)
    assert answer["seen"] == round(expected.seen, 4)
    assert [(window["start"], window["end"]) for window in answer["windows"]] == [
        *((0.0, 0.44), (1.12, 1.6))
    ]


def test_paths_under_the_root(service: Running, folder: Path) -> None:
    client = service[0]
    for name in ("a.avi", "./a.avi", str(folder / "videos" / "a.avi"), "frames"):
        answer = client.post("/v1/predict", json={"path": name})
        assert answer.status_code == 200, answer.text
        assert answer.json()["video"] == name
    for name in ("../secret.avi", str(folder / "secret.avi"), "link.avi", "linked", "/etc/passwd"):
        status, detail = problem(client.post("/v1/predict", json={"path": name}))
        assert status == 403, name
        assert detail == f"{name}: is not in the folder of this service; name a video inside it"
    for name in ("none.avi", "x" * 5000, "a.avi/b"):
        assert problem(client.post("/v1/predict", json={"path": name}))[0] == 404
    status, detail = problem(client.post("/v1/predict", json={"path": "bad.avi"}))
    assert (status, detail) == (422, _message_of_the_command(folder, "bad.avi"))


def _message_of_the_command(folder: Path, name: str) -> str:
    error = next(Predictor(folder / "net.safetensors").stream([folder / "videos" / name]))
    return str(error).removeprefix(f"{folder}/videos/")


@pytest.mark.parametrize(
    ("content", "kind", "status", "detail"),
    [
        (b"{}", "application/json", 400, 'the body is not {"path": "walk.avi"}; send JSON'),
        (b'{"path": 3}', "application/json", 400, "the body is not"),
        (b"[" * 50000, "application/json", 400, "the body is not"),
        (b"x" * 70000, "application/json", 413, "larger than 65,536 bytes"),
        (b"x", "text/plain", 415, "the body is text/plain; send multipart/form-data or JSON"),
        (b"", "", 415, "the body is of no type"),
        (b"x", "multipart/form-data", 400, "has no boundary"),
        (b"x", "multipart/form-data; boundary=b", 400, "is damaged"),
        (b"--b\r\n\r\n", "multipart/form-data; boundary=b", 400, "ends early"),
        (b"--b--\r\n", "multipart/form-data; boundary=b", 400, "has no file"),
    ],
)
def test_damaged_bodies(
    content: bytes,
    kind: str,
    status: int,
    detail: str,
    service: Running,
    caplog: pytest.LogCaptureFixture,
) -> None:
    response = service[0].post(
        "/v1/predict", content=content, headers={"content-type": kind} if kind else {}
    )
    assert problem(response)[0] == status
    assert detail in problem(response)[1]
    assert not list(service[1].folder.path.iterdir())
    assert not [line for line in caplog.messages if "character" in line]  # the answer says it all


def test_parameters_out_of_range(service: Running, folder: Path) -> None:
    path = folder / "videos" / "a.avi"
    for query, words in (({"top": 0}, "top is 0; it should be"), ({"scores": "x"}, "scores is x")):
        status, detail = problem(upload(service[0], path, **query))
        assert status == 422
        assert words in detail


def test_names_of_files_are_harmless(service: Running, folder: Path) -> None:
    data = (folder / "videos" / "bad.avi").read_bytes()
    for name, shown in (("../../x/bad.avi", "bad.avi"), ("C:\\v\\bad.exe", "bad.exe")):
        response = service[0].post("/v1/predict", files={"video": (name, data)})
        assert problem(response)[1].startswith(f"{shown}: not a video")
    assert not list(service[1].folder.path.iterdir())


def test_a_killed_decoder_costs_one_request(service: Running, folder: Path) -> None:
    client, behind = service
    path = folder / "videos" / "a.avi"
    before = behind.decoders.failures
    stopped = _decoder_of(behind)
    os.kill(stopped, signal.SIGSTOP)
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(upload(client, path)))
    thread.start()
    wait_for(lambda: behind.admission.accepted)
    os.kill(stopped, signal.SIGKILL)
    thread.join()
    status, detail = problem(answers[0])
    assert status == 502
    assert detail == ("a.avi: the process that decoded it died (killed); convert the video first")
    assert behind.decoders.failures == before + 1
    assert upload(client, path).status_code == 200


def _decoder_of(service: Service) -> int:
    decoder = service.decoders._idle.get()
    service.decoders._idle.put(decoder)
    pid = decoder._process.pid
    assert pid is not None
    return pid


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="memory is limited on Linux only")
def test_a_decoder_has_limited_memory(folder: Path) -> None:
    path = folder / "videos" / "a.avi"
    limits = {"decoder_memory": 30}  # the clips take 61 MB
    with running(folder / "net.safetensors", clips=20_000, limits=limits) as (client, _):
        for _ in range(2):
            status, detail = problem(upload(client, path))
            assert status == 502
            assert "the process that decoded it died (out of memory at 30 MiB, the limit)" in detail
        assert client.get("/healthz").status_code == 200
        stated = client.get("/v1/model").json()["limits"]["decoder_memory"]
        assert stated == {"value": 30, "unit": "MiB", "status": 502}


def test_limits_of_the_video(strict: Running, tmp_path: Path) -> None:
    client = strict[0]
    stated = client.get("/v1/model").json()["limits"]
    assert stated["frames"] == {"value": 39, "unit": "frames of a video", "status": 422}
    for name, frames, size, words in (
        ("wide.mp4", 2, (64, 80), "its frames are 80x64, 5,120 pixels; this service takes 5,000"),
        ("many.mp4", 40, (16, 16), "has 40 frames; this service takes 39"),
        ("long.mp4", 20, (16, 16), "is 0.8 s long; this service takes 0.4 s"),
    ):
        path = write_video(tmp_path / name, frames, size=size, codec="libx264")
        status, detail = problem(upload(client, path))
        assert status == 422
        assert detail.startswith(f"{name}: {words} (see /v1/model)")


@pytest.mark.parametrize("size", [2**20, 2**19 + 100])
def test_a_disk_that_takes_no_upload(size: int, service: Running) -> None:
    client, behind = service
    content = b"x" * size
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, usual[1]))  # as a full disk
    try:
        status, detail = problem(client.post("/v1/predict", files={"video": ("a.avi", content)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert status == 507
    assert detail == (
        f"the upload cannot be written to {behind.folder.path} (File too large); free space on "
        "its disk, or start the service with another TMPDIR"
    )
    assert not list(behind.folder.path.iterdir())


def test_the_folder_for_uploads_is_made_again(service: Running, folder: Path) -> None:
    """Systems delete what is old in the folder for temporary files."""
    client, behind = service
    behind.folder.path.rmdir()
    assert upload(client, folder / "videos" / "a.avi").status_code == 200
    assert behind.folder.path.stat().st_mode & 0o777 == 0o700


def test_a_large_file_is_refused_before_its_end(strict: Running) -> None:
    client, service = strict
    status, detail = problem(client.post("/v1/predict", files={"video": ("a.avi", b"x" * 20001)}))
    assert status == 413
    assert detail.startswith("the file is larger than 20,000 bytes, the limit")

    def endless() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="v"; filename="a"\r\n\r\n'
        for _ in range(300):
            yield b"x" * 1000

    kind = {"content-type": "multipart/form-data; boundary=b"}
    assert problem(client.post("/v1/predict", content=endless(), headers=kind))[0] == 413
    assert not list(service.folder.path.iterdir())


def test_slow_and_half_uploads(strict: Running) -> None:
    client, service = strict
    port = client.base_url.port
    assert port is not None
    head = (
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer s3cret\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 500\r\n\r\n--b\r\n"
    )
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(head)
        wait_for(lambda: service.admission.uploads == 1)
        status, detail = problem(client.post("/v1/predict", files={"video": ("a.avi", b"x")}))
        assert (status, detail) == (429, "1 uploads are under way, the limit; try again later")
        answer = slow.recv(10000)
        while not answer.endswith(b"}"):
            answer += slow.recv(10000)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"the upload took longer than 0.5 s" in answer
    with socket.create_connection(("127.0.0.1", port)) as half:
        half.sendall(head)
        wait_for(lambda: service.admission.uploads == 1)
    wait_for(lambda: not service.admission.uploads and not service.admission.accepted)
    assert not list(service.folder.path.iterdir())


def test_too_many_requests_wait(strict: Running) -> None:
    client, service = strict
    with service.admission.request(), service.admission.request():
        response = client.post("/v1/predict", files={"video": ("a.avi", b"x")})
    assert problem(response) == (503, "2 requests wait already, the limit; try again later")
    assert int(response.headers["retry-after"]) > 0


def test_a_request_that_takes_too_long(folder: Path) -> None:
    path = folder / "videos" / "a.avi"
    with running(folder / "net.safetensors", limits={"request_seconds": 0.6}) as (client, behind):
        wait_for(lambda: upload(client, path).status_code == 200)
        with behind.turn:
            status, detail = problem(upload(client, path))
        assert status == 504
        assert detail.startswith("a.avi: no answer within 0.6 s, the limit; send a shorter video")
        stopped = _decoder_of(behind)
        os.kill(stopped, signal.SIGSTOP)
        assert problem(upload(client, path))[0] == 504
        wait_for(lambda: behind.decoders.failures)
        wait_for(lambda: upload(client, path).status_code == 200)


def test_requests_at_once_share_batches(folder: Path) -> None:
    data = (folder / "videos" / "a.avi").read_bytes()

    async def ask(url: httpx.URL) -> list[float]:
        async with httpx.AsyncClient(base_url=url, timeout=600) as client:
            requests = [
                client.post("/v1/predict?scores=1", files={"video": ("a.avi", data)})
                for _ in range(4)
            ]
            answers = await asyncio.gather(*requests)
        return [answer.json()["scores"][0] for answer in answers]

    with running(folder / "net.safetensors", window=1000, batch_size=12) as (client, _):
        scores = asyncio.run(ask(client.base_url))
        text = client.get("/metrics").text
    assert scores == pytest.approx([scores[0]] * 4, abs=1e-6)
    assert "p3d_batch_clips_count 1.0\n" in text
    assert "p3d_batch_clips_sum 12.0\n" in text
    assert 'p3d_requests_total{path="/v1/predict",status="200"} 4.0\n' in text


def test_the_model_is_described(service: Running) -> None:
    about = service[0].get("/v1/model").json()
    assert about["classes"] == list(CLASSES)
    assert about["preprocessing"]["crop"] == 16
    assert (about["clips"], about["weights"]) == (3, "net.safetensors")
    assert len(about["sha256"]) == 64
    assert {limit["status"] for limit in about["limits"].values()} == {
        *(408, 413, 422, 429, 502, 503, 504)
    }
