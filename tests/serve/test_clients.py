"""The example clients, against a real service."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.services import running, write_weights
from helpers.videos import write_video

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_clients_print_classes_and_segments(tmp_path: Path) -> None:
    weights, video = write_weights(tmp_path / "net.safetensors"), tmp_path / "a.avi"
    write_video(video, 40)
    (tmp_path / "token").write_text("s3cret\n")
    with running(weights, token="s3cret") as (client, _):
        url = str(client.base_url)
        python = [sys.executable, EXAMPLES / "serve_client.py", video, "--url", url]
        done = subprocess.run(
            [*map(str, python), "--token-file", str(tmp_path / "token")],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert len([line for line in done.stdout.splitlines() if "%" in line]) == 3
        refused = subprocess.run([*map(str, python)], capture_output=True, text=True)
        assert refused.returncode == 1
        assert refused.stderr.startswith("401: the token is missing or wrong")
        if shutil.which("curl") is None:
            pytest.skip("curl is not installed")
        shell = subprocess.run(
            [EXAMPLES / "serve_client.sh", video, url.rstrip("/")],
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "TOKEN_FILE": str(tmp_path / "token")},
            capture_output=True,
            text=True,
        )
    assert shell.returncode == 0, shell.stderr
    prediction, job = map(json.loads, shell.stdout.splitlines())
    assert len(prediction["top"]) == 3
    assert job["state"] == "done"
