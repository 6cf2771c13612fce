"""Mistakes of a first day: each gets exit code 2 and one line with the value and the remedy."""

from __future__ import annotations

import shlex

import pytest

from p3d.cli import main

WRONG = {
    # Commands.
    "trian --data x": "there is no command 'trian'; did you mean p3d train?",
    "evaluate --data x": "there is no command 'evaluate'; did you mean p3d eval?",
    "check x": "there is no command 'check'; did you mean p3d prepare check?",
    "prepare ucf": "there is no command 'prepare ucf'; did you mean p3d prepare ucf101?",
    "help trian": "there is no command 'trian'; did you mean p3d train?",
    "xyz": "there is no command 'xyz'; choose one of: prepare sample, prepare ucf101, ",
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
    "completion powershell": "SHELL is 'powershell'; choose one of: bash, zsh, fish",
    # Paths.
    "train --data ''": "--data is ''; give the path of a file or folder",
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
    "train --config absent.json": "--config absent.json: cannot be read",
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
