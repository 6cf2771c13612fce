"""Mistakes of a first day: each gets exit code 2 and one line with the value and the remedy."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from helpers.videos import write_video
from p3d.cli import main

WRONG = {
    # Commands.
    "trian --data x": "there is no command 'trian'; did you mean p3d train?",
    "evaluate --data x": "there is no command 'evaluate'; did you mean p3d eval?",
    "check x": "there is no command 'check'; did you mean p3d prepare check?",
    "prepare ucf": "there is no command 'prepare ucf'; did you mean p3d prepare ucf101?",
    "help trian": "there is no command 'trian'; did you mean p3d train?",
    "xyz": "there is no command 'xyz'; choose one of: prepare sample, prepare ucf101, ",
    "--verison": "there is no option --verison; did you mean p3d --version?",
    "--epochs 3 train": "the command comes before --epochs; choose one of: prepare sample, ",
    # Options that do not exist.
    "train --weight w": "p3d train has no option --weight; did you mean --weights?",
    "train --epoch 3": "p3d train has no option --epoch; did you mean --epochs?",
    "train --learning-rate 1": "p3d train has no option --learning-rate; did you mean --lr?",
    "train --lerning-rate 1": "p3d train has no option --lerning-rate; did you mean --lr?",
    "train --bs 8": "p3d train has no option --bs; did you mean --batch-size?",
    "train --num-workers 2": "p3d train has no option --num-workers; did you mean --workers?",
    "train --num_workers=2": "p3d train has no option --num-workers; did you mean --workers?",
    "train --gpu 0": "p3d train has no option --gpu; did you mean --device?",
    "train --pretrained w": "p3d train has no option --pretrained; did you mean --weights?",
    "train -epochs 3": "p3d train has no option -epochs; did you mean --epochs?",
    "train --data x --minutes 3": "p3d train has no option --minutes; only --recipe quick has it",
    "train -o runs": "p3d train has no option -o; did you mean --out?",
    "train --bath-size 3": "p3d train has no option --bath-size; did you mean --batch-size?",
    "train --batchsize 3": "p3d train has no option --batchsize; did you mean --batch-size?",
    "train --frames 8": "p3d train has no option --frames; did you mean --num-frames?",
    "train --devices cpu": "p3d train has no option --devices; did you mean --device?",
    # Options of other commands, which no option here resembles.
    "predict --on-bad-video skip": "p3d predict has no option --on-bad-video; p3d train, ",
    "score --on-bad-video skip": "p3d score has no option --on-bad-video; p3d train, ",
    "prepare check --backend x": "p3d prepare check has no option --backend; p3d eval, ",
    "convert --max-loss 2": "p3d convert has no option --max-loss; p3d export has it",
    "serve --max-loss 2": "p3d serve has no option --max-loss; p3d export has it",
    "prepare sample --no-mirror": "p3d prepare sample has no option --no-mirror; p3d eval ",
    "predict --zzzz a.avi": "p3d predict has no option --zzzz; see p3d predict --help-all",
    # Values that do not parse.
    "train --epochs ten": "--epochs is 'ten'; give an integer",
    "train --epochs 1.5": "--epochs is '1.5'; give an integer",
    "train --epochs=": "--epochs is ''; give an integer",
    "train --lr fast": "--lr is 'fast'; give a finite number",
    "train --lr nan": "--lr is 'nan'; give a finite number",
    "train --lr 1e999": "--lr is '1e999'; give a finite number",
    "train --clip-gradients inf": "--clip-gradients is 'inf'; give a finite number",
    "train --schedule cosin": "--schedule is 'cosin'; did you mean cosine? choose one of: cyclic, ",
    "train --device gpu": "--device is 'gpu'; did you mean cuda? choose one of: auto, cpu, cuda, ",
    "train --norms x": "--norms is 'x'; choose one of: train, freeze-but-first, freeze-all",
    "train --recipe none": "--recipe is 'none'; choose one of: ucf101, ucf101-paper, ",
    "train --compile=yes": "--compile takes no value; give --compile or --no-compile",
    "prepare ucf101 --fold 4": "--fold is '4'; choose one of: 1, 2, 3",
    "predict a.avi --weights w --clips x": "--clips is 'x'; choose one of: auto, or give an "
    "integer",
    "predict a.avi --weights w --clips atuo": "--clips is 'atuo'; did you mean auto? choose one "
    "of: auto, or give an integer",
    "probe f.npz --folds 1.5": "--folds is '1.5'; give an integer, or choose one of: split, groups",
    "train --resize 1.5": "--resize is '1.5'; give an integer",
    "completion powershell": "SHELL is 'powershell'; choose one of: bash, zsh, fish",
    # Paths.
    "train --data ''": "--data is ''; give the path of a file or folder",
    "predict a.avi --weights w --clips 0": "--clips is 0; give 1 or more",
    "predict a.avi --weights w --batch-size 0": "--batch-size is 0; give 1 or more",
    "predict '' --weights w": "the name of the video is empty; give a path",
    "predict https://x.org/a.avi --weights w": "https://x.org/a.avi: is an address; ",
    "info https://x.org/a.pth": "MODEL is 'https://x.org/a.pth'; p3d reads files: download it",
    "train --weights s3://b/w.pt": "--weights is 's3://b/w.pt'; p3d reads files: download it first",
    # Missing and superfluous words.
    "train": "p3d train needs --data PATH or --config PATH; see p3d train --help",
    "eval": "p3d eval needs --weights PATH and --data PATH",
    "convert a.pth": "p3d convert needs OUTPUT; see p3d convert --help",
    "train --data": "--data needs PATH",
    "train --data --epochs 3": "--data needs PATH",
    "train --resize": "--resize needs ",
    "train my_videos": "p3d train does not take 'my_videos' without an option before it, such as "
    "--data",
    "train epochs=3": "p3d train does not take 'epochs=3'; did you mean --epochs=3?",
    "train —epochs 3": "p3d train does not take '—epochs'; did you mean --epochs?",
    "report runs/a runs/b": "p3d report does not take 'runs/b'",
    "train --config absent.json": "--config absent.json: cannot be read (No such file or "
    "directory); give the config.json of a run",
    "train --resume --out absent": "absent: holds no run to resume; give the folder of one (--out)",
    # Values that the options refuse together.
    "train --data x --epochs 0": "--epochs is 0; give 1 or more",
    "train --data x --save-minutes 0": "--save-minutes is 0.0; give a finite number above 0",
    "train --data x --compile --checkpoint-activations": "--compile and --checkpoint-activations "
    "cannot be combined",
    "predict --weights w --threads 0 a.avi": "--threads is 0; give 1 to 1024",
}


@pytest.mark.parametrize("command", WRONG)
def test_a_mistake_gets_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(command)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith(f"p3d: error: {WRONG[command]}")


FILES = {
    # Data sets; "videos" has the class folders run and walk, "one" a single class.
    "train --data absent --test-fraction 0.2": "absent: no such folder or manifest",
    "train --data empty --test-fraction 0.2": "empty: has no class folders; videos must be in ",
    "train --data one --test-fraction 0.5": "one: there are training videos of only one class",
    "train --data texts --test-fraction 0.2": "texts/a: has no videos, only note.txt; convert them",
    "train --data videos/run/a_run.avi": "videos/run/a_run.avi: is neither a folder nor a .csv",
    "train --data videos": "videos: nothing says which videos are for training and for testing",
    "train --data videos/run --test-fraction 0.2": "videos/run: has no class folders; videos "
    "must be in videos/run/CLASS/, or give --class-pattern",
    "train --data void.csv --test-fraction 0.2": "void.csv: the header has no column path",
    "train --data header.csv --test-fraction 0.2": "header.csv: lists no videos; add a row for ",
    "train --data split.csv": "split.csv:2: split 'trian' must be one of train, validation, test",
    "prepare check hollow": "hollow/walk: has no videos, add some, or move it out of the data set",
    "prepare check videos --workers -1": "--workers -1: must be at least 0",
    "prepare check videos --findings note.txt/f.csv": "note.txt: is a file, no folder",
    "prepare frames --data videos --out videos/new": "--out videos/new: would become a part of ",
    "train --data video --test-fraction 0.2": "video: no such folder or manifest; did you mean "
    "videos?",
    "train --data videos --train-list nota.txt --test-list nota.txt": "nota.txt: cannot be read "
    "(No such file or directory); did you mean note.txt?",
    "prepare manifest --kind csv --videos videos --tables splits.csv --out m.csv": "splits.csv: "
    "cannot be read (No such file or directory); did you mean split.csv?",
    "prepare manifest --kind lists --videos video --train-list note.txt --out m.csv": "video: "
    "there is no such folder or archive; did you mean videos?",
    "prepare ucf101 --source video --out u": "video: no such file or folder; did you mean videos?",
    # Split rules.
    "train --data videos --test-fraction 1.5": "--test-fraction 1.5 must be at least 0 and below 1",
    "train --data videos --test-fraction 0.5 --validation-fraction 0.5": "--test-fraction 0.5 and "
    "--validation-fraction 0.5 leave nothing for training",
    "train --data videos --test-groups a": "--test-groups and --validation-groups need ",
    "train --data videos --test-fraction 0.5 --group-pattern '(['": "--group-pattern '([' is not a "
    "valid regular expression",
    "train --data videos --test-fraction 0.5 --group-pattern a": "--group-pattern 'a' has 0 pairs",
    "train --data videos --group-pattern '^(.)' --test-groups x": "--test-groups: no group x; ",
    "train --data videos --class-pattern 'x(y)' --test-fraction 0.5": "--class-pattern 'x(y)' "
    "finds no class in any of the 4 videos below videos",
    # Where a run is written.
    "train --data videos --test-fraction 0.5 --out videos/runs": "--out videos/runs: is inside the "
    "data set videos and would be taken for a class",
    "train --data videos --test-fraction 0.5 --out note.txt": "note.txt: is a file, no folder",
    "train --data videos --test-fraction 0.5 --recipe quick --minutes -3": "--minutes is -3.0; ",
    "train --data videos --test-fraction 0.5 --crop 300 --resize 128 --plan": "the crop of 300 px ",
    "train --data videos --test-fraction 0.5 --precision tf32 --device cpu --plan": "--precision",
    "train --config note.txt": "--config note.txt: cannot be read",
    # Weights and runs.
    "predict --weights absent.safetensors videos": "absent.safetensors: cannot be read (No such ",
    "predict --weights note.txt videos": "note.txt: it is neither a PyTorch file, nor ",
    "predict --weights empty videos": "empty: it is a folder without weights (best.safetensors)",
    "predict --weights begun videos": "begun: this run has no weights yet",
    "predict --weights w --threshold 2 videos": "--threshold is 2.0; give a probability from 0 to ",
    "eval --run empty": "--run empty: has no config.json, so it is not a training run",
    "eval --run bogun": "--run bogun: no such folder; did you mean begun?",
    "eval --data videos --test-fraction 0.5 --weights note.txt": "note.txt: it is neither ",
    "report bogun": "bogun: no such folder; did you mean begun?",
    "report empty": "empty has no log.jsonl, so it is not a training run",
    "eval --data videos --test-fraction 0.5 --weights notes.txt": "notes.txt: cannot be read (No "
    "such file or directory); did you mean note.txt?",
    "info empty": "empty: it is a folder without weights",
    "predict -walk-.avi --weights note.txt": "p3d predict has no option -walk-.avi; for the file, "
    "write ./-walk-.avi",
    "info notes.txt": "notes.txt: neither a network (p3d63, p3d131, p3d199) nor a file; did you "
    "mean note.txt?",
    "explain videos/run/a_run.avi --weights note.txt --out absent/x.png": "--out absent/x.png: its "
    "folder does not exist; give a file in an existing folder",
    "serve --weights note.txt --root video": "--root video: is no folder; did you mean videos?",
    "serve --weights note.txt --token-file notes.txt": "--token-file notes.txt: cannot be read (No "
    "such file or directory); did you mean note.txt?",
    # Scores and segments.
    "metrics emty": "emty: no such file; did you mean empty?",
    "detection split.csv --truth videos/run/a_run.avi": "videos/run/a_run.avi: give a file of "
    "segments that ends in .csv or .json",
    "detection splits.csv --truth split.csv": "split.csv: the header has no column start; ",
    "calibrate notes.txt --weights note.txt --truth split.csv": "notes.txt: no such file; did you "
    "mean note.txt?",
    "calibrate note.txt --weights note.txt --truth split.csv": "note.txt: with --truth, give a "
    "file of p3d timeline --scores",
    "timeline videos --weights note.txt --scores absent/x": "--scores absent/x: its folder does "
    "not exist; give a file in an existing folder",
    "timeline videos --weights notes.txt --out timelines": "notes.txt: cannot be read (No such "
    "file or directory); did you mean note.txt?",
    "convert note.txt out.pth": "out.pth: the output is a safetensors file; name it ",
    "convert note.txt absent/out.safetensors": "absent/out.safetensors: there is no folder absent",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with small data sets and files that are not what they should be."""
    place = tmp_path_factory.mktemp("place")
    for name in (
        "videos/run/a_run",
        "videos/run/b_run",
        "videos/walk/a_walk",
        "videos/walk/b_walk",
    ):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(place / f"{name}.avi")
    for folder in ("one", "hollow"):
        (place / folder).mkdir()
        (place / folder / "run").symlink_to(place / "videos" / "run")
    for folder in ("empty", "hollow/walk", "texts/a", "begun"):
        (place / folder).mkdir(parents=True)
    (place / "texts" / "a" / "note.txt").touch()
    (place / "note.txt").write_text("a note")
    (place / "void.csv").touch()
    (place / "-walk-.avi").touch()
    (place / "header.csv").write_text("path,class\n")
    (place / "split.csv").write_text("path,class,split\nvideos/run/a_run.avi,run,trian\n")
    (place / "begun" / "config.json").write_text("{}")
    return place


@pytest.mark.parametrize("command", FILES)
def test_a_wrong_file_gets_one_line(
    command: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    assert main(shlex.split(command)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"p3d: error: {FILES[command]}")
    assert sorted(place.rglob("*")) == before
