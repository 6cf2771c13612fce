"""`p3d eval` on a data set and on a training run."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import p3d
from helpers.disk import content, no_file_above
from helpers.runs import copy_with_bad
from helpers.runs import options as run_options
from helpers.videos import write_video
from p3d.cli import main
from p3d.data.clips import read_eval_clips
from p3d.data.digests import video_digest
from p3d.data.layouts import read_dataset
from p3d.evaluation.evaluate import run
from p3d.evaluation.options import EvalOptions
from p3d.evaluation.run_options import run_arguments
from p3d.inference.scorer import Scorer
from p3d.inference.scoring import VideoScores, score_videos
from p3d.model.network import P3D
from p3d.scores.score_file import read_score_file
from p3d.system.csv_file import write_csv
from p3d.system.files import file_sha256, write_json
from p3d.system.options import DeviceOptions, plain_options
from p3d.video.decode import open_video

pytestmark = pytest.mark.usefixtures("narrow_networks")

QUICK = ("--workers", "0", "--clips", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def model(sample: Path) -> P3D:
    """Return an untrained network for the classes of the sample set."""
    torch.manual_seed(0)
    model = p3d.create_model("p3d63", num_classes=8)
    model.preprocessing = p3d.Preprocessing(num_frames=2, resize=(16, 16), crop=16)
    model.class_names = read_dataset(sample, "test").class_names
    return model


@pytest.fixture(scope="module")
def finished(sample: Path, model: P3D, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run on the sample set, without an epoch in its log."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    write_json(folder / "config.json", plain_options(run_options(sample, folder)))
    (folder / "log.jsonl").touch()
    p3d.save_model(model, folder / "best.safetensors")
    return folder


def test_results_of_a_run_go_to_its_folder_and_its_report(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", *run_arguments(finished), *QUICK]) == 0
    printed = capsys.readouterr().out
    metrics = json.loads((finished / "test" / "metrics.json").read_text())
    assert metrics["videos"] == 8
    assert metrics["top5"] >= metrics["top1"]
    assert metrics["trained_on"] is None
    assert len(metrics["weights_sha256"]) == 64
    scores = read_score_file(finished / "test" / "scores.npz")
    assert scores.weights_sha256 == metrics["weights_sha256"]
    assert scores.logits.shape == (8, 1, 8)
    assert (scores.logits.mean(1).argmax(1) == scores.labels).mean() == metrics["top1"]
    assert scores.protocol["preprocessing"]["crop"] == 16
    assert f"page: {finished / 'report.html'}" in printed
    assert f"page: {finished / 'test' / 'report.html'}" in printed
    assert metrics["seconds"] > 0
    assert metrics["clips_scored"] == 8
    assert metrics["device"].startswith("cpu")
    assert "top-5" not in printed
    page = (finished / "report.html").read_text()
    assert f"<dt>Test top-1</dt><dd>{metrics['top1']:.1%}<" in page


def test_results_name_the_weights_that_were_measured(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that still trains may replace its best weights during an evaluation."""
    weights = Path(shutil.copy(finished / "best.safetensors", tmp_path))
    digest = file_sha256(weights)

    def score(*arguments: Any, **options: Any) -> VideoScores:
        weights.write_bytes(b"newer")
        return score_videos(*arguments, **options)

    monkeypatch.setattr("p3d.evaluation.evaluate.score_videos", score)
    out = tmp_path / "out"
    arguments = [f"--weights={weights}", f"--out={out}"]
    assert main(["eval", *run_arguments(finished), *arguments, *QUICK]) == 0
    assert json.loads((out / "metrics.json").read_text())["weights_sha256"] == digest
    assert read_score_file(out).weights_sha256 == digest


def test_split_without_videos_is_an_error(
    finished: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "set"
    for name in ("train", "test"):
        shutil.copytree(sample / name, data / name)
    arguments = ["--data", str(data), "--weights", str(finished / "best.safetensors")]
    assert main(["eval", *arguments, "--split", "validation"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "set has no validation videos; give another --split" in line


def test_run_whose_data_moved_is_an_error(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", *run_arguments(finished), "--data=gone"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"--run {finished}: the data gone is not there; give --data" in line


def test_run_without_weights_is_an_error(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "config.json", plain_options(run_options(sample, tmp_path)))
    assert main(["eval", *run_arguments(tmp_path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"--run {tmp_path}: has no best.safetensors yet" in line


def test_an_evaluation_that_fails_at_once_leaves_nothing(
    finished: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, flow = tmp_path / "set", tmp_path / "flow.safetensors"
    [bad] = copy_with_bad(sample, data, slice(1))
    p3d.save_model(p3d.create_model("p3d63", num_classes=8, modality="flow"), flow)
    for weights, message in (
        (finished / "best.safetensors", f"{bad}: not a video"),
        (flow, "takes optical flow; prepare flow first"),
        (tmp_path / "gone.safetensors", "gone.safetensors"),
    ):
        words = ["--data", str(data), "--weights", str(weights), "--out", str(tmp_path / "a" / "b")]
        assert main(["eval", *words, *QUICK]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
        assert not (tmp_path / "a").exists()


def test_a_full_disk_leaves_an_earlier_evaluation_or_nothing(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")  # confusion.png is the largest file
    out = tmp_path / "new" / "test"
    command = ["eval", *run_arguments(finished), *QUICK, "--frames=all", "--out", str(out)]
    for earlier in (False, True):
        if earlier:
            assert main(command) == 0
            before = content(out)
            assert {"metrics.json", "motion.csv", "reversed/metrics.json"} <= {*before}
        capsys.readouterr()
        with no_file_above(8192):
            assert main([*command, "--clips=2"]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("p3d: error: ")
        assert "cannot be written (File too large)" in last
        assert "partial" not in last
        assert content(out) == before if earlier else not out.parent.exists()


def test_many_bad_videos_are_counted(
    finished: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "set"
    copy_with_bad(sample, data, slice(7))
    words = ["--data", str(data), "--weights", str(finished / "best.safetensors")]
    assert main(["eval", *words, *QUICK, "--on-bad-video", "skip"]) == 0
    lines = capsys.readouterr().out.splitlines()
    place = lines.index("NOT MEASURED: 7 videos that cannot be read:")
    assert sum("not a video" in line for line in lines) == 5
    assert lines[place + 6] == "  and 2 more"


def test_videos_that_the_weights_were_trained_on_are_a_warning(
    sample: Path,
    model: P3D,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    test = read_dataset(sample, "test")
    model.trained_on = frozenset(video_digest(r, test.class_names) for r in test.records[:3])
    monkeypatch.setattr("p3d.evaluation.jobs.load_network", lambda *_: model)
    (tmp_path / "weights").touch()
    run(
        EvalOptions(
            p3d.DataOptions(sample),
            tmp_path / "weights",
            clips=1,
            out=tmp_path,
            workers=0,
            compute=DeviceOptions("cpu"),
        )
    )
    model.trained_on = frozenset()
    assert "LEAK: 3 of 8 test videos were in the training list" in capsys.readouterr().out
    assert json.loads((tmp_path / "metrics.json").read_text())["trained_on"] == 3


def test_every_order_of_frames_is_measured(
    finished: Path, model: P3D, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = [*run_arguments(finished), *QUICK, "--clips", "2", "--crops", "3", "--mirror"]
    arguments += ["--protocol", "weights", "--frames", "all", "--out", str(out)]
    # All crops of frames resized to 16x16 are the same.
    assert main(["eval", *arguments]) == 2
    assert "--crops 3: frames are resized to 16x16" in capsys.readouterr().err
    arguments.remove("--crops")
    arguments.remove("3")
    assert main(["eval", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "mirrored copies" in printed
    folders = {"ordered": out, **{name: out / name for name in ("reversed", "shuffled", "still")}}
    scores = {order: read_score_file(path / "scores.npz") for order, path in folders.items()}
    assert {order: each.protocol["order"] for order, each in scores.items()} == {
        order: order for order in folders
    }
    assert scores["ordered"].logits.shape == (8, 4, 8)
    with (out / "motion.csv").open(newline="") as file:
        assert [row["frames"] for row in csv.DictReader(file)] == list(folders)
    scorer = Scorer(model, torch.device("cpu"))
    for number, record in enumerate(read_dataset(sample, "test").records):
        with open_video(record.path) as video:
            clips = read_eval_clips(video, model.preprocessing, 2)
        reversed_ = scorer(clips.flip(1))
        torch.testing.assert_close(torch.tensor(scores["reversed"].logits[number, ::2]), reversed_)
        still = scorer(clips[:, 1:].expand(-1, 2, -1, -1, -1))
        torch.testing.assert_close(torch.tensor(scores["still"].logits[number, ::2]), still)


def test_other_orders_do_not_replace_the_figures_of_a_run(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*run_arguments(finished), *QUICK, "--split", "validation", "--frames", "reversed"]
    assert main(["eval", *arguments]) == 0
    assert f"written to {finished / 'validation' / 'reversed'}: " in capsys.readouterr().out
    assert not (finished / "validation" / "metrics.json").exists()


def test_several_runs_are_measured_and_summarized(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [tmp_path / name for name in ("split1", "split2")]
    for run_folder in runs:
        shutil.copytree(finished, run_folder)
    torch.manual_seed(1)
    model = p3d.load_model(runs[1] / "best.safetensors")
    torch.nn.init.normal_(model.fc.weight)
    p3d.save_model(model, runs[1] / "best.safetensors")
    arguments = ["eval", "--run", *map(str, runs), "--out", str(tmp_path / "out"), *QUICK]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [line.split() for line in lines[lines.index(next(x for x in lines if "run " in x)) :]]
    assert [row[0] for row in table[2:6]] == ["split1", "split2", "mean", "std"]
    measured = [
        json.loads((tmp_path / "out" / name / "metrics.json").read_text())["top1"]
        for name in ("split1", "split2")
    ]
    with (tmp_path / "out" / "runs.csv").open(newline="") as file:
        rows = {row["run"]: float(row["top1"]) for row in csv.DictReader(file)}
    assert [rows["split1"], rows["split2"]] == measured
    assert rows["mean"] == pytest.approx(sum(measured) / 2)


def test_several_runs_that_do_not_fit_together_are_errors(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twin = tmp_path / "other"
    shutil.copytree(finished, twin)
    assert main(["eval", "--run", str(finished), str(finished), *QUICK]) == 2
    assert "two folders are called run; give each run once" in capsys.readouterr().err
    weights = ["--weights", str(finished / "best.safetensors")]
    assert main(["eval", "--run", str(twin), str(finished), *weights, *QUICK]) == 2
    assert "each of several runs has its own weights; drop --weights" in capsys.readouterr().err
    (twin / "best.safetensors").unlink()
    assert main(["eval", "--run", str(finished), str(twin), *QUICK]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"--run {twin}: has no best.safetensors yet" in line


def test_part_of_long_videos_that_clips_see_is_reported(
    finished: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = read_dataset(sample, "test")
    manifest = tmp_path / "long.csv"
    first, *others = dataset.records
    paths = [write_video(tmp_path / "long.avi", 200), *(record.path for record in others)]
    rows = [
        (path, dataset.class_names[record.label], "test")
        for path, record in zip(paths, (first, *others), strict=True)
    ]
    write_csv(manifest, ("path", "class", "split"), rows)
    out = tmp_path / "out"
    arguments = ["--data", str(manifest), "--weights", str(finished / "best.safetensors")]
    assert main(["eval", *arguments, *QUICK, "--clips", "20", "--out", str(out)]) == 0
    # 20 clips of 2 frames see all of the other videos, and a fifth of 200 frames.
    assert (
        "seen: 90.0% of the frames of a video on average, at least 20.0%, by 20 clips\n"
        "--clips 100 spans all frames\n"
    ) in capsys.readouterr().out
    assert json.loads((out / "metrics.json").read_text())["seen"] == pytest.approx(0.9)


def test_protocols_with_a_fixed_number_of_clips_suggest_no_other(
    finished: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, manifest = read_dataset(sample, "test"), tmp_path / "long.csv"
    long = write_video(tmp_path / "long.avi", 200)
    rows = [(long, dataset.class_names[0], "test")]
    rows += [(each.path, dataset.class_names[each.label], "train") for each in dataset.records]
    write_csv(manifest, ("path", "class", "split"), rows)
    arguments = ["--data", str(manifest), "--weights", str(finished / "best.safetensors")]
    assert main(["eval", *arguments, "--protocol", "authors-features", "--workers", "0"]) == 0
    # The last of the 20 windows of 16 frames starts at floor(19 * 182 / 20) = 172.
    printed = capsys.readouterr().out
    assert "at least 94.0%, by 20 clips\n" in printed
    assert "spans all frames" not in printed
