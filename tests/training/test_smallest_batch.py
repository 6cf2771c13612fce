"""Batches of a single clip, which batch normalization may not take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.runs import TINY, copy_set, log_lines, options, weights
from p3d.cli import main
from p3d.errors import UserError
from p3d.model.network import P3D, create_model
from p3d.training.smallest_batch import check_smallest_batch
from p3d.training.train import run

pytestmark = pytest.mark.usefixtures("narrow_networks")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (replace(TINY, batch_size=1), "a step of 1 clip has a batch of 1 clip, 4 frames of 16x16"),
        (replace(TINY, batch_size=2, clips_per_step=3), "a step of 3 clips has a batch of 1 clip"),
    ],
)
def test_a_run_with_such_batches_is_refused_before_its_first_step(
    recipe: object, message: str, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for plan in (False, True):
        with pytest.raises(UserError, match=rf"^{message}.* one value per channel; use a larger"):
            run(options(sample, tmp_path / "run", recipe, plan=plan))
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "run").exists()
    frozen = replace(recipe, norms="freeze-all", max_steps=1)
    assert run(options(sample, tmp_path / "run", frozen)) == 0


def test_steps_of_such_batches_are_not_timed(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--device", "cpu", "--num-frames", "4", "--crop", "16", "--steps", "1"]
    assert main(["bench", "train", *words, "--batch-size", "1"]) == 2
    assert "one value per channel" in capsys.readouterr().err
    assert main(["bench", "train", *words, "--batch-size", "2"]) == 0


def network(crop: int) -> P3D:
    model = create_model("p3d63", num_classes=2)
    model.preprocessing = replace(model.preprocessing, num_frames=4, crop=crop)
    return model


def test_several_values_of_one_clip_are_enough() -> None:
    state = torch.get_rng_state()
    model = network(64)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    check_smallest_batch(model, 1, 1, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    check_smallest_batch(network(16), 2, 2, 1)
    with pytest.raises(UserError, match="a step of 3 clips on 2 processes has a batch of 1 clip"):
        check_smallest_batch(network(16), 1, 3, 2)


def test_skipped_videos_that_leave_one_clip_do_not_end_a_run(sample: Path, tmp_path: Path) -> None:
    copy_set(sample, tmp_path / "set")
    for path in sorted((tmp_path / "set" / "train").rglob("*_g01_*.avi")):
        path.unlink()
        path.write_bytes(b"no video")
    out, recipe = tmp_path / "run", replace(TINY, batch_size=2, epochs=1)
    assert run(options(tmp_path / "set", out, recipe, on_bad_video="skip")) == 0
    assert len(log_lines(out, "step")) == 8
    assert all(tensor.isfinite().all() for tensor in weights(out).values())
