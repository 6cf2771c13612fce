"""The page about a run: self-contained, complete, and written for any run folder."""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.pages import Page, check_self_contained
from helpers.videos import number_of, write_frames, write_video
from p3d.cli import main
from p3d.errors import UserError
from p3d.prepare.flow import write_flow
from p3d.report.page import write_run_report
from p3d.report.record import read_predictions, read_run
from p3d.video.flow_file import FlowInfo

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'p3d[report]'")

CLASSES = ("jump", "run", "walk")
CONFIG = {
    "data": {"data": "/sets/ucf101", "fold": 2, "splits": {"test_fraction": 0.0}},
    "recipe": {"network": "p3d131", "epochs": 3, "max_steps": None, "resize": [182, 242]},
    "weights": "weights/kinetics.pth",
    "modality": "rgb",
    "precision": "fp16",
    "patience": None,
}


def make_log(epochs: int = 3, steps: int = 20, **changes: Any) -> list[dict[str, Any]]:
    """Return a log with every key; `changes` replace values of all lines that have the key."""
    lines: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        for step in range((epoch - 1) * steps + 1, epoch * steps + 1):
            progress = step / (epochs * steps)
            step_values = {
                "loss": 2 - 1.5 * progress,
                "lr": 0.01 * (1 - progress) + 1e-6,
                "gradient_norm": 5.0 - progress,
                "clips_per_second": 100.0 + step % 3,
                "data_wait": 0.05,
                "memory_mib": 2048,
                "scale": 65536.0,
                "overflows": 0,
            }
            lines.append({"event": "step", "step": step, "epoch": epoch, **step_values})
        epoch_values = {
            "train_loss": 1.75 - 0.4 * epoch,
            "train_top1": 0.3 * epoch,
            "train_top5": 0.32 * epoch,
            "validation_loss": 1.8 - 0.4 * epoch,
            "validation_top1": (0.411, 0.637, 0.5)[min(epoch - 1, 2)],
            "validation_top5": 0.812,
            "seconds": 61.0,
            "clips_per_second": 98.76,
            "data_wait": 0.055,
            "bad_videos": 0,
        }
        lines.append({"event": "epoch", "step": epoch * steps, "epoch": epoch, **epoch_values})
    return [line | {k: v for k, v in changes.items() if k in line} for line in lines]


def write_run(
    folder: Path,
    lines: Sequence[dict[str, Any]] = (),
    *,
    config: object = CONFIG,
    environment: object = None,
    class_names: Sequence[str] = CLASSES,
    videos: Sequence[tuple[Path | str, str, Sequence[float]]] = (),
) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, value in (("config.json", config), ("environment.json", environment)):
        if value is not None:
            (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    if videos:
        with (folder / "validation.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "class", *class_names))
            writer.writerows((path, name, *scores) for path, name, scores in videos)
    return folder


def report(folder: Path) -> Page:
    path = write_run_report(folder)
    assert path == folder / "report.html"
    return Page(path)


@pytest.fixture(scope="module")
def complete_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a run with every file."""
    folder = tmp_path_factory.mktemp("runs") / "complete"
    videos = [
        (write_video(folder.parent / "confident.avi"), "jump", (0.98, 0.01, 0.01)),
        (write_frames(folder.parent / "frames"), "run", (0.1, 0.8, 0.1)),
        (write_video(folder.parent / "wrong.avi", 3), "run", (0.9, 0.06, 0.04)),
        (folder.parent / "missing.avi", "walk", (0.2, 0.7, 0.1)),
    ]
    environment = {"torch": "2.13.0", "command": "p3d train <data> & more"}
    lines = [*make_log(), {"event": "checkpoint-failed", "step": 7, "reason": "disk <full>"}]
    return write_run(folder, lines, environment=environment, videos=videos)


@pytest.fixture(scope="module")
def page(complete_run: Path) -> Page:
    return report(complete_run)


def test_page_is_self_contained(page: Page) -> None:
    check_self_contained(page)
    assert len(page.source) < 500_000


def test_every_figure_and_image_has_a_text_alternative(page: Page) -> None:
    titles = ["Confusion matrix", "Loss", "Accuracy", "Learning rate", "Throughput"]
    titles += ["Waiting for data", "Gradient norm", "Loss scale", "Memory"]
    assert page.chart_titles == titles
    assert all(image["role"] == "img" for image in page.all("svg"))
    assert len(page.all("svg")) == len(page.inside["desc"]) == len(titles)
    assert page.inside["desc"][0] == "3 classes, 2 of 4 videos on the diagonal"
    assert page.inside["desc"][1].startswith("training: 1.975 at 1, 0.5 at 60")
    assert "validation: 1.4 at 20, 0.6 at 60" in page.inside["desc"][1]
    assert all(image["alt"] for image in page.all("img"))


def test_numbers_are_those_of_the_log(page: Page) -> None:
    assert page.inside["h1"] == ["p3d131 on ucf101"]
    assert page.inside["dt"][0] == "Best validation top-1"
    values = ["63.7%epoch 2, loss 1.000", "3 of 360 steps", "3 min 3 s1 min 1 s per epoch"]
    assert page.inside["dd"] == [*values, "98.85.5% waiting for data"]
    for words in ("RGB · fp16 · 3 classes · from kinetics.pth · fold 2", "finished"):
        assert words in page.text
    assert "20.95060.0%1.00063.7%1 min 1 s98.85.5%0" in page.inside["tr"]
    assert "top-5" not in page.text.lower()
    assert [attributes.get("class") for attributes in page.all("tr")].count("best") == 1
    for words in (
        "resize 182, 242",
        "test fraction 0",
        "Files could not be saved once, see Events",
    ):
        assert words in page.text
    assert "p3d train <data> & more" in page.text


def test_classes_and_mistakes_are_counted(page: Page) -> None:
    assert "4 validation videos, network of epoch 2: top-1 50.0%" in page.text
    assert "mean class accuracy 50.0%" in page.text
    assert "walk 1 0.0% — 0.0% run 2 50.0% 50.0% 50.0% jump 1 100.0% 50.0% 66.7%" in page.text
    assert "run jump 1 of 2 50.0% walk run 1 of 1 100.0%" in page.text


def test_most_confident_predictions_are_shown_with_thumbnails(page: Page) -> None:
    captions = page.inside["figcaption"][1:5]
    assert [" ".join(caption.split()) for caption in captions] == [
        "jump 98.0% confident.avi",
        "run 80.0% frames",
        "run (6.0%) predicted as jump 90.0% wrong.avi",
        "walk (10.0%) predicted as run 70.0% missing.avi",
    ]
    assert "No thumbnail: no such file or folder" in page.text
    shown = []
    for strip in page.pictures:
        frames = np.array_split(np.asarray(strip), 4, axis=1)
        shown.append([number_of(frame) for frame in frames])
    assert shown[0] == [5, 15, 25, 35]
    assert shown[2] == [0, 1, 1, 2]


class Drift:
    """Optical flow to the right at every pixel."""

    num_frames, height, width, fps = 6, 30, 40, 25.0
    times = np.arange(6) / 25.0
    flow = FlowInfo(30, (30, 40))

    def read(self, indices: Sequence[int]) -> torch.Tensor:
        flow = torch.full((len(indices), self.height, self.width, 2), 128, dtype=torch.uint8)
        flow[..., 0] = 200
        return flow


def test_flow_is_shown_in_color(tmp_path: Path) -> None:
    write_flow(tmp_path / "drift.mkv", Drift())
    page = report(
        write_run(tmp_path, make_log(), videos=[(tmp_path / "drift.mkv", "run", (0.1, 0.8, 0.1))])
    )
    [strip] = page.pictures
    assert (strip.width, strip.height) == (4 * 148 + 3 * 2, 111)
    red = np.asarray(strip)[:, 10:100].reshape(-1, 3).mean(0)
    assert red[0] > 240
    assert red[1:].max() < 20


NASTY = ["<b>&\"'", "$x_1$ {%s}", "走る", "مشي", "two\nlines", "<script>alert(1)</script>"]


def write_evaluation(folder: Path, **changes: object) -> Path:
    """Write the files of an evaluation of three videos, as p3d eval does."""
    folder.mkdir()
    metrics = {
        "videos": 3, "top1": 2 / 3, "top5": 1.0, "mean_class": 0.75, "loss": 0.4321,
        "missing": 2, "bad": ["x.avi: broken"], "trained_on": 1,
        "date": "2026-11-27T05:40:11+01:00", "options": {"split": "test", "clips": 20},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics | changes))
    rows = ["path,class,jump,run,answer,result"]
    rows += ["a.avi,jump,0.9,0.1,jump,right", "b.avi,run,0.8,0.2,jump,wrong"]
    rows += ["c.avi,run,0.3,0.7,run,right"]
    (folder / "scores.csv").write_text("\n".join(rows))
    return folder


def test_evaluation_on_the_test_list_comes_first(tmp_path: Path) -> None:
    run = write_run(tmp_path, make_log(), videos=[("x", "run", (0.1, 0.8, 0.1))])
    write_evaluation(run / "test")
    page = report(run)
    assert page.inside["dt"][:2] == ["Test top-1", "Best validation top-1"]
    assert page.inside["dd"][0] == "66.7%3 videos, mean class 75.0%"
    assert "test 3 66.7% 75.0% 0.432 20 2026-11-27 05:40" in page.text
    assert "3 test videos, network of epoch 2: top-1 66.7%" in page.text
    warnings = ["1 of 3 test videos were in the training list of the weights"]
    warnings += ["2 listed test videos do not exist", "1 test videos cannot be read"]
    assert all(words in page.text for words in warnings)
    headings = ["Evaluations", "Classes", "Videos", "Learning", "Optimization and speed"]
    assert page.inside["h2"] == [*headings, "Configuration"]


def test_evaluation_of_other_weights_does_not_stand_for_the_run(tmp_path: Path) -> None:
    run = write_run(tmp_path, make_log(), videos=[("x", "run", (0.1, 0.8, 0.1))])
    (run / "best.safetensors").write_bytes(b"newer")
    write_evaluation(run / "test", weights_sha256="0" * 64)
    (run / "damaged").mkdir()
    (run / "damaged" / "metrics.json").write_text("{")
    page = report(run)
    assert page.inside["dt"][0] == "Best validation top-1"
    assert "The test figures are those of other weights than best.safetensors" in page.text
    assert "1 validation videos" in page.text


def test_only_evaluations_of_frames_in_order_stand_for_the_run(tmp_path: Path) -> None:
    """p3d metrics and p3d eval --frames write files of the same name, perhaps into the run."""
    run = write_run(tmp_path, make_log(), videos=[("x", "run", (0.1, 0.8, 0.1))])
    write_evaluation(run / "backwards", options={"split": "test", "frames": "reversed"})
    write_evaluation(run / "figures", options=None, scores="run/validation", split="validation")
    record = read_run(run)
    assert (record.evaluations, record.test) == ((), None)
    write_evaluation(run / "test", options={"split": "test", "frames": "all"})
    test = read_run(run).test
    assert test is not None
    assert test.folder == run / "test"


def test_figures_follow_the_color_scheme(page: Page) -> None:
    colors = re.findall(r"#[0-9a-f]{6}\b", page.source.split("</style>")[1])
    assert not colors
    assert page.source.count("prefers-color-scheme: dark") == 1


def test_headings_are_in_order(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_page_of_a_resumed_run_names_both_commands(tmp_path: Path) -> None:
    first, last = "p3d train --data a --out run", "p3d train --resume --out run"
    starts = [{"event": "start", "step": step, "command": c} for step, c in ((0, first), (9, last))]
    text = report(write_run(tmp_path, [starts[0], *make_log(), starts[1], starts[1]])).text
    assert f"Command {first} " in " ".join(text.split()) + " "
    assert f"resumed by {last}" in " ".join(text.split())


def test_relative_paths_start_where_the_run_was_started(tmp_path: Path) -> None:
    started = tmp_path / "started"
    started.mkdir()
    write_video(started / "video.avi")
    environment = {"folder": str(started), "date": "2026-11-27T05:13:39+00:00"}
    run = write_run(
        tmp_path / "run",
        make_log(),
        environment=environment,
        videos=[("video.avi", "run", (0.1, 0.8, 0.1))],
    )
    page = report(run)
    assert len(page.pictures) == 1
    assert "2026-11-27 05:13 · RGB" in page.text
    assert str(started) not in page.text


def test_names_with_markup_or_any_script_are_shown_as_text(tmp_path: Path) -> None:
    videos = [(f"/no/<i>{name}</i>.avi", name, [1 / len(NASTY)] * len(NASTY)) for name in NASTY]
    lines = [*make_log(), {"event": "<u>odd</u>", "step": 1, "<k>": "</td>"}]
    config = CONFIG | {"out": "</table><script>", "recipe": {"network": "<net>"}}
    folder = tmp_path / "<run>&"
    page = report(write_run(folder, lines, config=config, class_names=NASTY, videos=videos))
    assert not {"b ", "i", "u", "script", "k", "net", "run"} & {tag for tag, _ in page.tags}
    for name in NASTY:
        shown = name.replace("\n", "\\n")
        assert page.text.count(shown) >= 3  # in the matrix, in a table and below a video
    for words in ("<u>odd</u>: <k> </td>", "</table><script>", "<net> on ucf101", "<run>&"):
        assert words in page.text


@pytest.mark.parametrize(
    ("lines", "outcome"),
    [
        (make_log(3), "finished"),
        (make_log(2), "stopped at step 40"),
        (make_log(3)[:-5], "stopped at step 56"),
        ([], "no step yet"),
    ],
)
def test_outcome_of_a_run(lines: list[dict[str, Any]], outcome: str, tmp_path: Path) -> None:
    assert read_run(write_run(tmp_path, lines)).outcome == outcome


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"patience": 2}, "stopped at step 60"),
        ({"patience": 1}, "finished early: no better epoch in 1"),
        ({"recipe": {"epochs": 9, "max_steps": 60}}, "finished"),
        ({"recipe": {"epochs": "many"}}, "stopped at step 60"),
        ({"recipe": None, "data": None}, "stopped at step 60"),
    ],
)
def test_outcome_depends_on_the_options(
    changes: dict[str, Any], outcome: str, tmp_path: Path
) -> None:
    config = CONFIG | {"recipe": {"network": "p3d63", "epochs": 9}} | changes
    assert read_run(write_run(tmp_path, make_log(), config=config)).outcome == outcome


def test_run_that_patience_ended_after_a_tie(tmp_path: Path) -> None:
    """A tie with a lower loss is the new best network, but no better accuracy."""
    lines = make_log(validation_top1=0.5)
    for line in lines:
        if line["event"] == "epoch":
            line["best_epoch"] = line["epoch"]
    config = CONFIG | {"recipe": {"epochs": 9}, "patience": 2}
    record = read_run(write_run(tmp_path, lines, config=config))
    assert record.best is not None
    assert (record.best["epoch"], record.outcome) == (3, "finished early: no better epoch in 2")


def test_run_without_steps(tmp_path: Path) -> None:
    page = report(write_run(tmp_path, config=None))
    assert page.all("svg") == []
    for words in ("no step yet", "no numbers to draw yet", "config.json is missing or damaged"):
        assert words in page.text


def test_run_without_a_validation_list(tmp_path: Path) -> None:
    lines = [
        {name: value for name, value in line.items() if not name.startswith("validation")}
        for line in make_log()
    ]
    page = report(write_run(tmp_path, lines))
    assert "Training top-1 90.0%" in page.text
    assert "The run has no validation list" in page.text
    assert "validation" not in page.inside["desc"][0]


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    write_run(tmp_path, make_log(), config='{"recipe": ', environment="[1, 2]")
    page = report(tmp_path)
    for words in ("config.json is missing or damaged", "validation.csv is missing"):
        assert words in page.text
    path = tmp_path / "validation.csv"
    path.write_text(
        "path,class,a,b\nx,a,0.9,0.1\ny,c,0.9,0.1\nz,b,0.9\nw,b,many,0\n\nv,b,nan,0.4\n"
    )
    predictions = read_predictions(path)
    assert predictions is not None
    assert (predictions.num_damaged, predictions.paths) == (4, ("x", "v"))
    assert predictions.most_confident == ([0, 1], [])
    path.write_text(
        "path,class,a,b,answer,result\nx,a,0.9,0.1,a,right\ny,b,0.9\nv,b,0.8,0.2,a,wrong\n"
    )
    predictions = read_predictions(path)
    assert predictions is not None
    assert (predictions.num_damaged, predictions.paths) == (1, ("x", "v"))
    for damage in (b"", b"\xff\x00,,\n\x00", b"path,class\n", b'"' + b"x" * 200_000):
        path.write_bytes(damage)
        assert read_predictions(path) is None


def test_classes_named_like_the_columns_after_the_scores(tmp_path: Path) -> None:
    path = tmp_path / "validation.csv"
    path.write_text("path,class,answer,result\nx,answer,0.9,0.1\n")
    older = read_predictions(path)
    path.write_text(
        "path,class,answer,result,answer,result\nx,answer,0.9,0.1,answer,right\ny,answer,1\n"
    )
    newer = read_predictions(path)
    assert older is not None
    assert newer is not None
    assert older.class_names == newer.class_names == ("answer", "result")
    assert older.scores.tolist() == newer.scores.tolist()
    assert (older.num_damaged, newer.num_damaged) == (0, 1)


def test_values_that_are_not_finite_numbers(tmp_path: Path) -> None:
    lines = make_log()
    values = itertools.cycle([math.nan, math.inf, None, "text", -math.inf, [1], {"a": 1}])
    for line in lines:
        line |= {name: next(values) for name in line if name not in ("event", "step")}
    page = report(write_run(tmp_path, lines))
    assert page.all("svg") == []
    assert "The loss is not a finite number at 60 of the steps, the first is 1." in page.text


def test_gaps_in_the_curves(tmp_path: Path) -> None:
    lines = make_log()
    lines[30]["loss"] = lines[20]["validation_top1"] = math.nan
    lines[5]["gradient_norm"] = lines[20]["seconds"] = None
    page = report(write_run(tmp_path, lines))
    assert "not a finite number at 1 of the steps, the first is 30" in page.text
    assert page.inside["desc"][0].startswith("training: 1.975 at 1, 0.5 at 60")
    assert "validation top-1: 0.637 at 2, 0.5 at 3" in page.inside["desc"][1]


def test_run_of_one_step(tmp_path: Path) -> None:
    page = report(write_run(tmp_path, make_log(1, 1), videos=[("x", "run", (0.1, 0.8, 0.1))]))
    assert page.inside["desc"][1].startswith("training: 0.5 at 1, 0.5 at 1")
    assert "Every video is classified correctly." in page.text
    assert "No prediction is wrong." in page.text


def test_old_logs_have_fewer_keys(tmp_path: Path) -> None:
    known = {"event", "step", "epoch", "loss", "lr", "train_loss", "validation_top1"}
    lines = [{k: v for k, v in line.items() if k in known} for line in make_log()]
    page = report(write_run(tmp_path, lines))
    assert page.chart_titles == ["Loss", "Accuracy", "Learning rate"]
    assert page.inside["dd"][3:] == ["0 s0 s per epoch", "—"]
    assert page.inside["dt"][1] == "Top-5 of that epoch"  # the number of classes is not known


def test_page_of_many_classes_and_steps_stays_small(tmp_path: Path) -> None:
    names = [f"class number {number}" for number in range(400)]
    scores = np.random.default_rng(0).dirichlet(np.full(400, 0.02), 800).round(5)
    videos = [(f"/no/{n}.avi", names[n % 400], tuple(row)) for n, row in enumerate(scores)]
    lines = make_log(60, 100, validation_loss=1.0)
    lines[2000]["loss"] = 1e6  # a spike, which must not flatten the curve
    folder = write_run(tmp_path, lines, class_names=names, videos=videos)
    page = report(folder)
    assert len(page.source) < 1_000_000
    loss = page.inside["svg"][1].split("highest 1e+06")[1]
    assert max(map(float, re.findall(r"\d+(?:\.\d+)?", loss.split("step")[1]))) in (2.0, 2.5)
    matrix = page.inside["svg"][0]
    assert "class number" not in matrix
    numbers = [int(word) for word in matrix.split() if word.isdigit()]
    assert numbers[3:] == sorted([*range(20, 401, 20)] * 2)
    assert all(page.text.count(name) for name in names)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_predictions_match_the_file(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    classes, videos = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 20))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    labels, scores = rng.integers(classes, size=videos), rng.random((videos, classes)).round(5)
    path = tmp_path_factory.mktemp("predictions") / "validation.csv"
    names = [f"c{number}" for number in range(classes)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("path", "class", *names)]
            + [(f"v{n}", names[labels[n]], *scores[n]) for n in range(videos)]
        )
    predictions = read_predictions(path)
    assert predictions is not None
    predicted = scores.argmax(1)
    assert predictions.accuracy.top1 == pytest.approx((predicted == labels).mean())
    correct, wrong = predictions.most_confident
    assert sorted(correct + wrong) == list(range(videos))
    assert {n for n in range(videos) if predicted[n] == labels[n]} == set(correct)
    for order in (correct, wrong):
        best = scores[order].max(1, initial=0).tolist()
        assert best == sorted(best, reverse=True)
    mistakes = predictions.mistakes(99)
    assert sum(times for _, _, times, _ in mistakes) == len(wrong)
    assert all((labels == names.index(name)).sum() == total for name, _, _, total in mistakes)


def test_command_rewrites_the_same_page(
    complete_run: Path, page: Page, capsys: pytest.CaptureFixture[str]
) -> None:
    (complete_run / "report.html").write_text("old")
    assert main(["report", str(complete_run)]) == 0
    assert capsys.readouterr().out == f"written to {complete_run / 'report.html'}\n"
    assert Page(complete_run / "report.html").source == page.source
    assert not list(complete_run.glob(".*"))


def test_folder_without_a_run_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    starts = {
        tmp_path: " has no log.jsonl, so it is not a",
        tmp_path / "absent": ": no such folder",
    }
    for folder, start in starts.items():
        assert main(["report", str(folder)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"p3d: error: {folder}{start}")
        assert error.count("\n") == 1


def test_page_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    write_run(tmp_path, make_log(1, 2))
    (tmp_path / "report.html").mkdir()
    with pytest.raises(UserError, match=r"report\.html: cannot be written"):
        write_run_report(tmp_path)


def test_without_matplotlib_the_message_says_what_to_install(
    complete_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert write_run_report(complete_run) is None
    assert capsys.readouterr().out == (
        "no report.html: it needs matplotlib: pip install 'p3d[report]'\n"
    )
    assert main(["report", str(complete_run)]) == 2
