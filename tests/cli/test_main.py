"""The commands as a whole: fast start, results, and one clear line for every error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import p3d
from helpers.runs import TINY
from helpers.videos import write_video
from p3d.cli import COMMANDS, main
from p3d.prepare.motions import CLASSES
from p3d.preprocessing import Preprocessing
from p3d.weights.metadata import save_model

TINY_CLIP = Preprocessing(num_frames=4, resize=(20, 20), crop=16)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of an untrained network for the eight classes of the sample set."""
    torch.manual_seed(0)
    model = p3d.create_model("p3d63", num_classes=8)
    model.preprocessing = TINY_CLIP
    model.class_names = tuple(CLASSES)
    path = tmp_path_factory.mktemp("weights") / "eight.safetensors"
    save_model(model, path)
    return path


def call(command: str, *arguments: object) -> int:
    """Run `p3d` and return its exit code."""
    return main([*command.split(), *map(str, arguments)])


def assert_one_line(capsys: pytest.CaptureFixture[str], code: int, *parts: str) -> None:
    """Assert that a command failed with one line of error and without a traceback."""
    error = capsys.readouterr().err
    assert code == 2, error
    lines = [line for line in error.splitlines() if line.startswith("p3d: error: ")]
    assert len(lines) == 1, error
    assert "Traceback" not in error
    for part in parts:
        assert part in lines[0]


def test_help_lists_every_command_without_loading_torch() -> None:
    script = (
        "import sys; from p3d.cli import main; code = main(['--help']);"
        "heavy = {'torch', 'numpy', 'av', 'ast'} & set(sys.modules); sys.exit(heavy and 'loads %s'"
        " % heavy or code)"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    for name in COMMANDS:
        assert f"\n  {name} " in answer.stdout


@pytest.mark.parametrize("name", ["prepare sample", "prepare ucf101", "prepare manifest"])
def test_commands_that_need_no_torch_do_not_load_it(name: str) -> None:
    script = (
        "import sys; from p3d.cli.parse import parse_options\n"
        f"parse_options({name!r}, ['--help']); sys.exit('torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert f"usage: p3d {name}" in answer.stdout


@pytest.mark.parametrize("flag", ["--version", "-v", "-V"])
def test_version(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(flag) == 0
    assert capsys.readouterr().out == f"p3d {p3d.__version__}\n"


def test_python_m_p3d_runs_the_command() -> None:
    command = [sys.executable, "-m", "p3d", "info", "p3d63", "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout)


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("train --data absent", "absent"),
        ("eval --data absent --weights absent.safetensors", "absent"),
        ("predict --weights absent.safetensors clip.avi", "absent.safetensors"),
        ("predict --weights absent.safetensors", "no videos were given"),
        ("info p3d50", "p3d50"),
    ],
)
def test_invalid_names_and_paths_are_reported_in_one_line(
    command: str, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_one_line(capsys, call(command), part)


def test_unavailable_device_is_reported_in_one_line(
    sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    code = call("train --device cuda --data", sample)
    assert_one_line(capsys, code, "--device cuda: this PyTorch sees no CUDA device")
    code = call("train --device mlu --data", sample)
    assert_one_line(capsys, code, "--device mlu: no Cambricon MLU is usable")


def test_empty_data_folder_is_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_one_line(capsys, call("train --data", tmp_path), str(tmp_path))


def write_ucf101(folder: Path, **lists: str) -> Path:
    """Write a UCF101 folder of two classes with a training and a test video each, and its lists."""
    for split, group in (("train", 1), ("test", 2)):
        for name in ("Jump", "Run"):
            (folder / split / name).mkdir(parents=True)
            write_video(folder / split / name / f"v_{name}_g0{group}_c01.avi", 8)
    (folder / "ucfTrainTestlist").mkdir()
    texts = {
        "classInd": "1 Jump\n2 Run\n",
        "trainlist01": "Jump/v_Jump_g01_c01.avi 1\nRun/v_Run_g01_c01.avi 2\n",
        "testlist01": "Jump/v_Jump_g02_c01.avi\nRun/v_Run_g02_c01.avi\n",
    }
    for name, text in (texts | lists).items():
        (folder / "ucfTrainTestlist" / f"{name}.txt").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("Run/v_Run_g09_c01.avi 2", ("v_Run_g09_c01.avi", "--allow-missing")),
        ("Fly/v_Fly_g01_c01.avi 2", ("Fly", "classInd.txt")),
    ],
    ids=["missing file", "unknown class"],
)
def test_invalid_training_list_is_reported_in_one_line(
    line: str, parts: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_ucf101(tmp_path, trainlist01=f"Jump/v_Jump_g01_c01.avi 1\n{line}\n")
    code = call("train --data", data, "--out", tmp_path / "run")
    assert_one_line(capsys, code, *parts)


@pytest.mark.parametrize("flags", [["--crop", "2", "--resize", "20", "20"], ["--crop", "300"]])
def test_impossible_clip_size_is_reported_in_one_line(
    flags: list[str], sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = call("train --workers 0 --data", sample, "--out", tmp_path / "run", *flags)
    assert_one_line(capsys, code, "px")


def test_unwritable_output_folder_is_reported_in_one_line(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    code = call("train --data", sample, "--out", tmp_path / "file" / "run")
    assert_one_line(capsys, code, "is a file, no folder", "choose another --out")


def test_weights_for_other_classes_are_reported_in_one_line(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_ucf101(tmp_path)
    code = call("eval --data", data, "--weights", weights)
    assert_one_line(capsys, code, "has 8 classes, the data set has 2")


def test_eval_writes_metrics_and_scores(
    weights: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results"
    flags = ("--workers", "0", "--clips", "3", "--device", "cpu")
    assert call("eval --data", sample, "--weights", weights, "--out", out, *flags) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["videos"] == 8
    assert f"{100 * metrics['top1']:.1f}%" in capsys.readouterr().out
    rows = (out / "per_class.csv").read_text().splitlines()
    assert rows[0] == "class,videos,top1,predicted,precision,f1"
    assert len(rows) == 9
    confusion = [row.split(",")[1:] for row in (out / "confusion.csv").read_text().splitlines()[1:]]
    assert [sum(map(int, row)) for row in confusion] == [1] * 8
    assert (out / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert len((out / "scores.csv").read_text().splitlines()) == 9


def test_predict_prints_json_or_tables(
    weights: Path, sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = sorted((sample / "test").glob("*/*.avi"))[:2]
    assert call("predict --json --top 2 --clips 2 --device cpu --weights", weights, *videos) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["video"] for answer in answers] == [str(video) for video in videos]
    assert all(len(answer["top"]) == 2 for answer in answers)
    assert call("predict --top 2 --clips 2 --weights", weights, videos[0]) == 0
    assert answers[0]["top"][0]["class"] in capsys.readouterr().out


def broken_videos(folder: Path) -> dict[str, Path]:
    """Write files without a readable video and return their paths by kind."""
    content = write_video(folder / "whole.avi", 20).read_bytes()
    contents = {
        "truncated": content[: len(content) // 40],
        "zero bytes": b"",
        "not a video": b"<html><body>404 Not Found</body></html>",
    }
    paths = {}
    for name, data in contents.items():
        paths[name] = folder / f"{name.replace(' ', '_')}.avi"
        paths[name].write_bytes(data)
    paths["no video stream"] = folder / "sound.avi"
    write_sound(paths["no video stream"])
    paths["missing"] = folder / "missing.avi"
    return paths


def write_sound(path: Path) -> None:
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_predict_continues_after_unreadable_videos(
    weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = broken_videos(tmp_path)
    videos = [*broken.values(), tmp_path / "whole.avi"]
    code = call("predict --json --clips 1 --device cpu --weights", weights, *videos)
    captured = capfd.readouterr()
    assert code == 2
    answers = [json.loads(line) for line in captured.out.splitlines()]
    assert ["error" in answer for answer in answers] == [True] * len(broken) + [False]
    errors = captured.err.splitlines()
    assert len(errors) == len(broken) + 1
    for line, path in zip(errors, broken.values(), strict=False):
        assert line.startswith(f"p3d: error: {path}: ")
    assert errors[-1] == f"p3d: {len(broken)} of {len(videos)} videos were not read"


@pytest.mark.parametrize("command", ["train", "eval"])
def test_broken_video_ends_a_command_that_must_not_skip_it(
    command: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, path in broken_videos(tmp_path).items():
        if name == "missing":
            continue
        manifest = tmp_path / "manifest.csv"
        rows = [f"{path.name},Jump,{split}" for split in ("train", "test")]
        classes = [f",{c}," for c in ["Kick", "MoveA", "MoveB", "MoveC", "MoveD", "MoveE", "MoveF"]]
        manifest.write_text("\n".join(["path,class,split", *rows, *classes]) + "\n")
        arguments = ["--weights", plain_weights(tmp_path)] if command == "eval" else ["--epochs", 1]
        arguments += [
            "--data",
            manifest,
            "--workers",
            1,
            "--on-bad-video",
            "error",
            "--device",
            "cpu",
        ]
        code = call(command, *arguments, "--out", tmp_path / "out" / name.replace(" ", "_"))
        assert_one_line(capsys, code, str(path))


def plain_weights(folder: Path) -> Path:
    """Return the file of a network for eight classes without names."""
    path = folder / "plain.safetensors"
    if not path.exists():
        model = p3d.create_model("p3d63", num_classes=8)
        model.preprocessing = TINY_CLIP
        save_model(model, path)
    return path


def test_public_names_exist() -> None:
    for name in p3d.__all__:
        assert getattr(p3d, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = p3d.nothing
    assert TINY.num_frames == TINY_CLIP.num_frames


def test_control_characters_of_names_do_not_reach_the_terminal(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "a\x1b[2J\u202e\x9b\n.avi"
    write_video(tmp_path / name)
    predict = ("predict", "--weights", weights, "--clips", 1, "--device", "cpu")
    assert call(*predict, tmp_path / name) == 0
    assert call(*predict, tmp_path / name, tmp_path / f"b{name}") == 2
    assert call("train", "--data", tmp_path / f"c{name}") == 2
    printed = capsys.readouterr()
    for text in (printed.out, printed.err):
        assert not set("\x1b\u202e\x9b") & set(text)
        assert "\\x1b[2J\\u202e\\x9b\\n.avi" in text
    assert call(*predict, "--json", tmp_path / name) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert not set("\x1b\u202e\x9b") & set(line)
    assert json.loads(line)["video"] == str(tmp_path / name)
