"""The files of an evaluation."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers.fonts import HANZI, only_fonts_of, write_font
from p3d.errors import UserError
from p3d.scores.accuracy import Accuracy, measure
from p3d.scores.output import draw_confusion, write_accuracy

NAMES = [r"$\frac$ {%s}", "two\nlines", "a long name, which has to be cut short"]


def _accuracy(classes: int) -> Accuracy:
    """Return the metrics of one correct video per class and a wrong one of the first class."""
    predicted = torch.tensor([*range(classes), 1])
    return measure(torch.eye(classes)[predicted], torch.tensor([*range(classes), 0]))


def test_names_may_hold_any_characters(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_accuracy(tmp_path, _accuracy(3), NAMES)
    with Image.open(tmp_path / "confusion.png") as image:
        assert image.format == "PNG"
    with (tmp_path / "confusion.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["truth \\ answer", *NAMES]
    assert rows[1] == [NAMES[0], "1", "1", "0"]
    with (tmp_path / "per_class.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["class", "videos", "top1", "predicted", "precision", "f1"]
    assert rows[0] == [NAMES[0], "2", "0.5000", "1", "1.0000", "0.6667"]
    assert rows[1] == [NAMES[1], "1", "1.0000", "2", "0.5000", "0.6667"]


@pytest.mark.parametrize("name", ["per_class.csv", "confusion.csv", "confusion.png"])
def test_a_file_that_cannot_be_written_is_one_line(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=rf"{name}: cannot be written \(.+\); check the folder"):
        write_accuracy(tmp_path, _accuracy(3), NAMES)
    assert (tmp_path / name).is_dir()


@pytest.mark.parametrize("has_font", [True, False])
def test_names_are_drawn_with_an_installed_font(
    has_font: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib")
    only_fonts_of(tmp_path, monkeypatch)
    if has_font:
        write_font(tmp_path / "fonts" / "confusion.ttf", HANZI)
    pictures = []
    for names in (HANZI[:2], HANZI[2:]):
        write_accuracy(tmp_path, _accuracy(2), names)
        with Image.open(tmp_path / "confusion.png") as image:
            pictures.append(image.tobytes())
    # Without the font, all characters are the same box, and one note says why.
    assert (pictures[0] != pictures[1]) == has_font
    assert capsys.readouterr().err.count("install one that has them") == (not has_font)


def test_ratios_without_a_denominator_are_empty(tmp_path: Path) -> None:
    accuracy = measure(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([1]))
    write_accuracy(tmp_path, accuracy, ("a", "b", "c"))
    with (tmp_path / "per_class.csv").open(newline="") as file:
        _, *rows = csv.reader(file)
    assert rows == [
        ["a", "0", "", "1", "0.0000", "0.0000"],
        ["b", "1", "0.0000", "0", "", "0.0000"],
        ["c", "0", "", "0", "", ""],
    ]


def test_confusion_matrix_shows_names_counts_and_row_fractions() -> None:
    pytest.importorskip("matplotlib")
    [axes] = draw_confusion(_accuracy(3), NAMES, side=5).axes
    labels = [r"$\frac$ {%s}", r"two\nlines", "a long name, which has …"]
    assert [label.get_text() for label in axes.get_yticklabels()] == labels
    assert axes.images[0].get_array().tolist() == [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 1]]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (0, 0): "1",
        (1, 0): "1",
        (1, 1): "1",
        (2, 2): "1",
    }


def test_many_classes_are_numbered() -> None:
    pytest.importorskip("matplotlib")
    [axes] = draw_confusion(_accuracy(45), [f"class {i}" for i in range(45)], side=5).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["10", "20", "30", "40"]
    assert axes.get_xticks().tolist() == [9, 19, 29, 39]
    assert not axes.texts


def test_without_matplotlib_there_is_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write_accuracy(tmp_path, _accuracy(3), NAMES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["confusion.csv", "per_class.csv"]
