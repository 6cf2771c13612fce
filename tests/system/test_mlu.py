"""`--device mlu` on a simulated card, see `helpers/simulated_mlu/torch_mlu`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from helpers import mlu_checks
from helpers.mlu import compute_as_the_card, missing_requirement
from helpers.processes import finish, launch, train_flags
from p3d.cli import main
from p3d.run_folder import BEST_FILE, find_checkpoints, read_log
from p3d.training.checkpoint_files import read_checkpoint

pytestmark = pytest.mark.usefixtures("narrow_networks")

ROOT = Path(__file__).parents[2]
HELPERS = ROOT / "tests" / "helpers"


@pytest.fixture(scope="module")
def env() -> dict[str, str]:
    """Environment variables of a process that finds torch_mlu."""
    reason = missing_requirement()
    if reason is not None:
        pytest.skip(reason)
    paths = [str(HELPERS / "simulated_mlu"), str(HELPERS), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
    }


# The simulated card


@pytest.fixture(scope="module")
def checks(env: dict[str, str]) -> dict[str, str | None]:
    done = subprocess.run(
        [sys.executable, "-W", "error", HELPERS / "mlu_checks.py"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", mlu_checks.CHECKS)
def test_the_simulated_card(name: str, checks: dict[str, str | None]) -> None:
    assert checks[name] is None, checks[name]


# Commands in one process

SHORT = {"epochs": 1, "batch_size": 4, "average_epochs": 0.5}  # 4 steps and one validation


class Done(NamedTuple):
    """The folder that the commands wrote to, and the output of each command by name."""

    folder: Path
    output: dict[str, str]


@pytest.fixture(scope="module")
def on_cpu(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on the CPU, with the convolutions of the card."""
    out = tmp_path_factory.mktemp("cpu") / "run"
    with pytest.MonkeyPatch.context() as patch:
        compute_as_the_card(patch)
        assert main(train_flags(sample, out, **SHORT)) == 0
    return out


@pytest.fixture(scope="module")
def stopped(env: dict[str, str], sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same run on the card, stopped after a step."""
    out = tmp_path_factory.mktemp("mlu") / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "p3d", *train_flags(sample, out, device="mlu", workers=1, **SHORT)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
    )
    deadline = time.monotonic() + 900
    while not any(line["event"] == "step" for line in read_log(out)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=900)[0]
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "Traceback" not in output
    return out


@pytest.fixture(scope="module")
def done(env: dict[str, str], sample: Path, stopped: Path, on_cpu: Path) -> Done:
    """Results of every command on the card."""
    folder = stopped.parent
    weights = on_cpu / BEST_FILE
    video = next((sample / "test").glob("*/*"))
    scoring = ["--weights", str(weights), "--clips", "2"]
    measuring = ["eval", "--data", str(sample), "--workers", "0", *scoring]

    def train(precision: str, **changes: object) -> list[str]:
        out = folder / precision
        return train_flags(sample, out, device="mlu", precision=precision, max_steps=1, **changes)

    tiny = "--network p3d63 --batch-size 2 --num-frames 4 --resize 20 20 --crop 16 --steps 1"

    commands = {
        "resume": train_flags(sample, stopped, device="mlu", resume=True, **SHORT),
        "fp16": train("fp16"),
        "bf16": train("bf16", checkpoint_activations=True),
        "bench": ["bench", "train", "--device", "mlu", "--precision", "fp16", *tiny.split()],
        "eval": [*measuring, "--device", "auto", "--out", str(folder / "eval")],
        "eval fp16": [*measuring, "--device", "mlu", "--precision", "fp16"],
        "predict": ["predict", "--json", str(video), "--device", "mlu", *scoring],
        "predict fp16": [
            *("predict", "--json", str(video), "--device", "mlu", "--precision", "fp16", *scoring)
        ],
    }
    child = subprocess.run(
        [sys.executable, HELPERS / "mlu_commands.py"],
        input=json.dumps(list(commands.values())),
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    outputs = {}
    for name, (code, output) in zip(commands, json.loads(child.stdout), strict=True):
        assert code == 0, output
        outputs[name] = output
    return Done(folder, outputs)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(find_checkpoints(folder)[0]).model


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_resumed_run_ends_with_the_weights_of_the_cpu(done: Done, on_cpu: Path) -> None:
    out = done.folder / "run"
    assert_equal(weights(out), weights(on_cpu))
    assert_equal(*(load_file(folder / BEST_FILE) for folder in (out, on_cpu)))
    log = read_log(out)
    assert [line["step"] for line in log if line["event"] == "step"] == [1, 2, 3, 4]
    assert (out / "validation.csv").read_text() == (on_cpu / "validation.csv").read_text()


def test_a_run_records_the_card_and_its_memory(done: Done) -> None:
    record = json.loads((done.folder / "run" / "environment.json").read_text())
    assert record["device"] == "mlu:0 (Simulated MLU, 24 GiB)"
    assert record["torch_mlu"] == "0.0+simulated"
    peaks = [line["memory_mib"] for line in read_log(done.folder / "run") if "memory_mib" in line]
    assert peaks
    parameters = sum(tensor.nbytes for tensor in weights(done.folder / "run").values()) / 2**20
    assert all(parameters < mib for mib in peaks)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_trains_in_mixed_precision(precision: str, done: Done) -> None:
    out = done.folder / precision
    steps = [line for line in read_log(out) if line["event"] == "step"]
    assert [line["step"] for line in steps] == [1]
    assert ("scale" in steps[0]) == (precision == "fp16")
    kept = weights(out)
    assert kept["stem.conv.weight"].dtype == torch.float32
    assert all(tensor.isfinite().all() for tensor in kept.values())


def test_evaluates_and_predicts_as_on_the_cpu(
    done: Done, sample: Path, on_cpu: Path, tmp_path: Path
) -> None:
    scoring = ["--weights", str(on_cpu / BEST_FILE), "--clips", "2", "--device", "cpu"]
    assert main(["eval", "--data", str(sample), "--out", str(tmp_path), *scoring]) == 0
    ours, theirs = (
        (folder / "scores.csv").read_text() for folder in (done.folder / "eval", tmp_path)
    )
    assert ours == theirs
    assert "mlu" in done.output["eval"]  # --device auto
    full, half = (json.loads(done.output[name]) for name in ("predict", "predict fp16"))
    assert full.keys() == half.keys()


def test_benchmarks_training_on_the_card(done: Done) -> None:
    assert "Simulated MLU" in done.output["bench"]


def test_a_missing_card_is_a_one_line_error(
    env: dict[str, str], sample: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "p3d", *train_flags(sample, tmp_path / "run", device="mlu")],
        env=env | {"MLU_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("p3d: error: --device mlu: no Cambricon MLU is usable")
    assert len(done.stderr.splitlines()) == 1


# Two processes with a card each


def test_two_cards_train_together(env: dict[str, str]) -> None:
    output = finish(launch(2, HELPERS / "mlu_pair.py", env=env, module=False))
    assert output.count("all checks passed") == 2


def test_the_model_zoo_script_trains_on_two_cards(
    env: dict[str, str], sample: Path, on_cpu: Path, tmp_path: Path
) -> None:
    command = Path(sys.executable).parent / "p3d"
    if not command.exists():
        pytest.skip(f"p3d is not installed next to {sys.executable}")
    tiny = "--network p3d63 --num-frames 4 --resize 20 20 --crop 16 --max-steps 1 --wiring author"
    done = subprocess.run(
        ["bash", ROOT / "run_scripts" / "P3D_AMP_60E_8MLUs_Train.sh", *tiny.split()],
        env=env
        | {
            "P3D": str(command),
            "NPROC": "2",
            "BATCH_SIZE": "4",
            "WORKERS": "1",
            "PYTORCH_TRAIN_DATASET": str(sample),
            "PYTORCH_TRAIN_CHECKPOINT": str(on_cpu / BEST_FILE),
            "OUT": str(tmp_path),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    steps = [line for line in read_log(tmp_path) if line["event"] == "step"]
    assert [line["step"] for line in steps] == [1]
    assert "scale" in steps[0]
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())
    record = json.loads((tmp_path / "environment.json").read_text())
    assert record["device"] == "mlu:0 (Simulated MLU, 24 GiB)"
