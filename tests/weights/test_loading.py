"""The folder of a run stands for its weights, and missing files for the place to get them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from p3d.errors import UserError
from p3d.model.network import create_model
from p3d.run_folder import BEST_FILE, LAST_FILE, LOG_FILE, checkpoint_path
from p3d.weights.info import InfoOptions, gather
from p3d.weights.loading import PretrainedWeights, find_weights, load_model
from p3d.weights.metadata import save_model

pytestmark = pytest.mark.usefixtures("few_channels_in_module")


def test_a_runs_folder_stands_for_its_best_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    model = create_model("p3d63", num_classes=2)
    save_model(model, run / LAST_FILE)
    assert find_weights(run) == run / LAST_FILE
    save_model(create_model("p3d63", num_classes=3), run / BEST_FILE)
    assert find_weights(str(run)) == run / BEST_FILE
    with caplog.at_level(logging.WARNING, logger="p3d.weights"):
        assert load_model(run).config.num_classes == 3
    assert caplog.messages == [f"{run / BEST_FILE}: taken as the weights of the run {run}"]
    assert PretrainedWeights(run).path == run / BEST_FILE
    assert gather(InfoOptions(str(run))).path == str(run / BEST_FILE)


def test_a_file_stands_for_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / BEST_FILE
    assert find_weights(path) == path
    save_model(create_model("p3d63", num_classes=2), path)
    load_model(path)
    assert find_weights(path) == path
    assert caplog.messages == []


def test_a_folder_without_weights_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{tmp_path}: it is a folder without weights "):
        load_model(tmp_path)
    (tmp_path / LOG_FILE).touch()
    with pytest.raises(UserError, match="this run has no weights yet; wait until"):
        PretrainedWeights(tmp_path)
    for step in (3, 20):
        torch.save({}, checkpoint_path(tmp_path, step))
    with pytest.raises(UserError, match=r"wait, or give its checkpoint-0000020\.pt$"):
        gather(InfoOptions(str(tmp_path)))


TORCHVISION = "https://download.pytorch.org/models"


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("resnet50-0676ba61.pth", f"download {TORCHVISION}/resnet50-0676ba61.pth and"),
        ("weights/resnet101.pth", f"download {TORCHVISION}/resnet101-63fe2227.pth and"),
        ("imagenet", f"download {TORCHVISION}/resnet50-0676ba61.pth and"),
        ("p3d199-ImageNet.safetensors", f"download {TORCHVISION}/resnet152-394f9c45.pth and"),
        ("kinetics", "download p3d_rgb_199.checkpoint.pth.tar from https://drive.google.com/"),
        ("p3d_flow_199.checkpoint.pth.tar", "download p3d_flow_199.checkpoint.pth.tar from"),
        ("p3d_sports1m.caffemodel", "download the authors' .caffemodel from https://1drv.ms/"),
        ("https://example.org/kinetics.pth", "download it first, and give the file"),
        ("C:/models/mine.pth", "check the path"),
        ("best.safetensors", "check the path"),
    ],
)
def test_a_missing_file_names_where_to_get_it(name: str, remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        load_model(name)
    message = str(caught.value)
    assert message.startswith(f"{Path(name)}: cannot be read (No such file or directory); {remedy}")
    assert "\n" not in message
