"""Class names of the authors' Kinetics networks, and names spelled in different ways."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.weight_files import caffemodel, randomize
from p3d.cli import main
from p3d.errors import UserError
from p3d.inference.networks import check_classes
from p3d.model.config import P3DConfig
from p3d.model.network import create_model
from p3d.preprocessing import AUTHORS, AUTHORS_FLOW, IMAGENET
from p3d.weights.class_names import KINETICS_NOTE, is_authors_kinetics, kinetics400, same_class
from p3d.weights.describe import describe_file
from p3d.weights.loading import load_model
from p3d.weights.metadata import save_model
from p3d.weights.port import to_port

pytestmark = pytest.mark.usefixtures("narrow_networks")

CONFIG = P3DConfig("p3d199", 400)


@pytest.fixture(scope="module")
def caffe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a `.caffemodel` of 400 classes."""
    path = tmp_path_factory.mktemp("caffe") / "kinetics.caffemodel"
    state = randomize(create_model("p3d63", num_classes=400).state_dict())
    path.write_bytes(caffemodel(state, head="fc_kinetics"))
    return path


def test_the_400_names_are_in_alphabetical_order() -> None:
    names = kinetics400()
    assert len(set(names)) == 400
    assert names == tuple(sorted(names))
    assert (names[0], names[161], names[399]) == ("abseiling", "hurling (sport)", "zumba")
    assert all(name == name.strip() and name.isascii() for name in names)


def test_caffe_networks_get_the_names(caffe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_model(caffe_file).class_names == kinetics400()
    assert main(["info", str(caffe_file)]) == 0
    printed = capsys.readouterr().out
    assert "names       abseiling, air drumming, answering questions, applauding" in printed
    assert f"note        {KINETICS_NOTE}\n" in printed


def test_names_that_are_given_take_precedence(caffe_file: Path) -> None:
    own = tuple(f"class {number}" for number in range(400))
    assert load_model(caffe_file, class_names=own).class_names == own


def test_a_new_classifier_or_another_wiring_has_no_names(caffe_file: Path) -> None:
    assert load_model(caffe_file, num_classes=7).class_names is None
    assert load_model(caffe_file, wiring="port").class_names is None


def test_conversion_keeps_the_names(caffe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "kinetics.safetensors"
    assert main(["convert", str(caffe_file), str(out)]) == 0
    file = describe_file(out)
    assert file.class_names == kinetics400()
    assert KINETICS_NOTE not in file.notes


def test_files_converted_without_names_get_them(tmp_path: Path) -> None:
    model = create_model("p3d63", num_classes=400)
    model.preprocessing = AUTHORS
    save_model(model, tmp_path / "old.safetensors", source="port file p3d_rgb_199.pth.tar")
    assert describe_file(tmp_path / "old.safetensors").class_names == kinetics400()


def test_port_files_of_the_authors_weights_get_the_names(tmp_path: Path) -> None:
    state = to_port(randomize(create_model("p3d63", num_classes=400).state_dict()))
    torch.save(state, tmp_path / "own.pth")
    assert describe_file(tmp_path / "own.pth").class_names is None
    state["bn1.running_var"] *= 3600
    torch.save(state, tmp_path / "authors.pth")
    assert describe_file(tmp_path / "authors.pth").class_names == kinetics400()


@pytest.mark.parametrize("pixels", [AUTHORS, AUTHORS_FLOW])
def test_only_networks_of_the_authors_are_recognized(pixels: object) -> None:
    assert is_authors_kinetics(CONFIG, pixels, "caffe file x")
    assert is_authors_kinetics(CONFIG, replace(pixels, crop=112, num_frames=8), "port file x")
    assert not is_authors_kinetics(CONFIG, pixels, "p3d train")
    assert not is_authors_kinetics(CONFIG, IMAGENET, "port file x")
    assert not is_authors_kinetics(replace(CONFIG, num_classes=401), pixels, "caffe file x")


def test_folder_names_are_spelled_otherwise() -> None:
    assert same_class("hurling (sport)", "Hurling_-sport-")
    assert same_class("massaging person's head", "massaging_persons_head")
    assert not same_class("petting cat", "petting animal")
    assert not same_class("-", "_")


def test_kinetics_in_folders_is_evaluated_and_another_order_is_refused(caffe_file: Path) -> None:
    model = load_model(caffe_file)
    folders = [name.replace(" ", "_").replace("(", "-").replace(")", "-") for name in kinetics400()]
    check_classes(model, folders, caffe_file)
    with pytest.raises(UserError, match="'abseiling' where the data set has 'zumba'"):
        check_classes(model, folders[::-1], caffe_file)
