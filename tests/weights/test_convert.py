"""`p3d convert`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from p3d.errors import UserError
from p3d.model.network import create_model
from p3d.preprocessing import AUTHORS
from p3d.weights.convert import ConvertOptions, run
from p3d.weights.describe import describe_file
from p3d.weights.loading import load_model
from p3d.weights.metadata import save_model
from p3d.weights.port import to_port

pytestmark = pytest.mark.usefixtures("narrow_networks")


@pytest.fixture
def port_file(tmp_path: Path) -> Path:
    model = create_model("p3d63", num_classes=2)
    path = tmp_path / "in.pth.tar"
    torch.save({"state_dict": to_port(model.state_dict())}, path)
    return path


def test_converts_a_port_file(
    port_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("stand up\nsit down\n\n")
    out = tmp_path / "out.safetensors"
    run(ConvertOptions(port_file, out, wiring="author", preprocessing="authors", class_names=names))
    output = capsys.readouterr().out
    assert "port file whose stem saw" in output
    assert f"wrote {out}" in output
    file = describe_file(out)
    assert (file.format, file.config.wiring, file.preprocessing) == ("p3d", "author", AUTHORS)
    assert file.class_names == ("stand up", "sit down")
    assert file.source == "port file in.pth.tar"
    ours, theirs = load_model(out).state_dict(), load_model(port_file).state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_keeps_the_videos_that_weights_were_trained_on(tmp_path: Path) -> None:
    model = create_model("p3d63", num_classes=2)
    model.trained_on = frozenset({b"01234", b"abcde"})
    save_model(model, tmp_path / "in.safetensors")
    run(ConvertOptions(tmp_path / "in.safetensors", tmp_path / "out.safetensors", num_classes=3))
    assert load_model(tmp_path / "out.safetensors").trained_on == model.trained_on


def test_overwrites_only_on_request(port_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is the input itself"):
        run(ConvertOptions(port_file, port_file, force=True))
    out = tmp_path / "out.safetensors"
    out.write_text("precious")
    with pytest.raises(UserError, match="exists already"):
        run(ConvertOptions(port_file, out))
    assert out.read_text() == "precious"
    run(ConvertOptions(port_file, out, force=True))
    assert load_model(out).config.num_classes == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.pth", "out.pth: the output is a safetensors file; name it .*out.safetensors$"),
        ("out.pth.tar", "name it .*/out.safetensors$"),
        ("out", "name it .*/out.safetensors$"),
        ("none/out.safetensors", "there is no folder .*none; create it first$"),
        (".", "is a folder; give a file, such as .*/p3d.safetensors$"),
    ],
)
def test_rejects_outputs_before_reading(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(ConvertOptions(tmp_path / "missing.pth", tmp_path / name, force=True))
    assert list(tmp_path.iterdir()) == []


def test_does_not_convert_a_file_onto_itself_by_another_name(tmp_path: Path) -> None:
    path, link = tmp_path / "best.safetensors", tmp_path / "link.safetensors"
    save_model(create_model("p3d63", num_classes=2), path)
    link.symlink_to(path)
    for source, target in ((path, link), (link, path), (tmp_path, path)):
        with pytest.raises(UserError, match="is the input itself"):
            run(ConvertOptions(source, target, force=True))


def test_rejects_unreadable_class_names(port_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    (tmp_path / "names.txt").write_bytes(b"walk\n\xff\n")
    for name, message in (
        ("none.txt", r"none\.txt: cannot be read \(No such file or directory\); check the path$"),
        ("names.txt", r"names\.txt: is not text in UTF-8; save it as such$"),
    ):
        with pytest.raises(UserError, match=f"^--class-names .*{message}"):
            run(ConvertOptions(port_file, out, class_names=tmp_path / name))
    assert not out.exists()
