"""A real process of `p3d serve`, from its start to SIGTERM."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from helpers.services import wait_for, write_weights
from helpers.videos import write_video


def test_sigterm_answers_what_was_accepted_and_leaves_nothing(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    weights = write_weights(tmp_path / "net.safetensors")
    video = write_video(tmp_path / "a.avi", 40).read_bytes()
    # The names of sockets in it have at most 107 bytes.
    temporary = Path(tempfile.mkdtemp(prefix="p3d-"))
    request.addfinalizer(temporary.rmdir)
    command = ["serve", "--weights", weights, "--port", 0, "--device", "cpu", "--decoders", 1]
    process = subprocess.Popen(
        [sys.executable, "-m", "p3d", *map(str, [*command, "--clips", 80])],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)},
        start_new_session=True,
    )
    request.addfinalizer(process.kill)  # if an assertion fails
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.fullmatch(
        r"p3d: serving p3d63, 3 classes, on cpu, at (http://127.0.0.1:\d+)/\n", line
    )
    assert found, line
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(
            httpx.post(f"{found[1]}/v1/predict", files={"video": ("a.avi", video)}, timeout=600)
        )

    threads = [threading.Thread(target=ask) for _ in range(4)]
    with httpx.Client(base_url=found[1], timeout=600) as client:
        assert client.get("/readyz").status_code == 200
        for thread in threads:
            thread.start()
        wait_for(lambda: "p3d_accepted_requests 4.0" in client.get("/metrics").text)
        process.send_signal(signal.SIGTERM)
        states: list[int] = []
        with suppress(httpx.TransportError):  # until it ends
            wait_for(lambda: states.append(client.get("/readyz").status_code))
        assert 503 in states
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 4
    assert process.wait(600) == 0
    assert process.stderr.read() == (
        "p3d: stopping; 4 requests to be answered or fetched, for up to 30 s; a second signal ends "
        "it at once\n"
    )
    process.stderr.close()
    assert not list(temporary.iterdir())
    with pytest.raises(ProcessLookupError):
        wait_for(lambda: os.killpg(process.pid, 0))


def test_a_folder_for_temporary_files_with_a_long_path(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "net.safetensors")
    temporary = tmp_path / ("x" * 100)
    temporary.mkdir()
    command = ["serve", "--weights", str(weights), "--port", "0", "--device", "cpu"]
    result = subprocess.run(
        [sys.executable, "-m", "p3d", *command],
        capture_output=True,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    assert result.returncode == 2
    assert result.stderr == (
        f"p3d: error: {temporary}: this path is too long for the sockets between processes; "
        "set TMPDIR to a shorter one\n"
    )
