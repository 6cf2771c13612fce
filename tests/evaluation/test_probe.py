"""`p3d probe`: folds, linear classifiers against scikit-learn, pooled scores and wrong use."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p3d.cli import main
from p3d.evaluation.linear import GRID, INNER_FOLDS, LinearClassifier, normalize
from p3d.evaluation.probe_folds import divide_groups, folds_by_group
from p3d.inference.feature_file import write_features
from p3d.inference.feature_index import FeatureIndex
from p3d.scores.score_file import read_score_file

PEOPLE = ("ann", "bob", "cyd", "dee")
CLASSES = ("jump", "run", "walk")


@pytest.fixture(scope="module")
def learn() -> None:
    """Skip without scikit-learn."""
    pytest.importorskip("sklearn", reason="p3d probe needs scikit-learn (the extra learn)")


def index() -> FeatureIndex:
    """Return four people's videos of three classes, two of each; one person is for testing."""
    rows = [(c, person, take) for c in CLASSES for person in PEOPLE for take in (1, 2)]
    return FeatureIndex(
        labels=tuple(CLASSES.index(c) for c, _, _ in rows),
        class_names=CLASSES,
        paths=tuple(f"set/{c}/{person}_{take}.avi" for c, person, take in rows),
        groups=tuple(person for _, person, _ in rows),
        splits=tuple("test" if person == "dee" else "train" for _, person, _ in rows),
        seen=(False,) * len(rows),
        bad=(),
        protocol={"layer": "pool5", "per_clip": False},
        weights_sha256="0" * 64,
    )


def values(noise: float = 0.3) -> np.ndarray:
    """Return features of `index` with a mean of their own for each class."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(len(CLASSES), 40))
    return (means[list(index().labels)] + noise * rng.normal(size=(24, 40))).astype(np.float32)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes features of `index`, with changes, and returns their path."""

    def write(name: str = "set.npz", array: np.ndarray | None = None, **changes: object) -> str:
        path = tmp_path / name
        write_features(path, values() if array is None else array, replace(index(), **changes))
        return str(path)

    return write


def test_normalization() -> None:
    features = np.array([[[4.0, -9.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]], np.float32)
    expected = np.array([[2, -3, 0, 0], [0, 0, 0, 0]]) / np.array([[13**0.5], [1]])
    np.testing.assert_allclose(normalize(features), expected, rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["", "a", "b", "c", "d", "e"]), min_size=5), st.integers(1, 5))
def test_groups_stay_together(groups: list[str], number: int) -> None:
    number = min(number, len(set(groups) - {""}) + groups.count(""))
    parts = divide_groups(groups, number)
    assert sorted(row for part in parts for row in part) == list(range(len(groups)))
    assert all(len(part) for part in parts)
    names = [{groups[row] for row in part} - {""} for part in parts]
    assert sum(map(len, names)) == len(set(groups) - {""})
    largest = max(map(groups.count, [*(set(groups) - {""}), ""][:-1] or [""]))
    assert max(map(len, parts)) - min(map(len, parts)) <= max(1, largest)


def test_each_group_is_left_out_once() -> None:
    folds = folds_by_group(index().groups, None)
    assert [fold.name for fold in folds] == list(PEOPLE)
    assert {index().groups[row] for row in folds[1].test} == {"bob"}
    assert {index().groups[row] for row in folds[1].train} == {"ann", "cyd", "dee"}


@pytest.mark.parametrize("width", [8, 40])
@pytest.mark.parametrize("kind", ["svm", "logistic"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.usefixtures("learn")
def test_classifiers_are_those_of_scikit_learn(kind: str, width: int, classes: int) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, PredefinedSplit
    from sklearn.svm import LinearSVC

    labels = np.array(index().labels)
    kept = labels < classes
    features, labels = normalize(values(2.0)[:, :width])[kept], labels[kept]
    groups = [group for group, keep in zip(index().groups, kept, strict=True) if keep]
    train, test = np.arange(2, len(labels)), np.arange(2)
    classifier = LinearClassifier(kind)  # type: ignore[arg-type]
    names = [groups[row] for row in train]
    logits, c = classifier.logits(features[train], labels[train], names, features[test], 4)
    center = features[train].mean(0)
    model = (
        LinearSVC(random_state=0, max_iter=100_000, dual=False)
        if kind == "svm"
        else LogisticRegression(max_iter=10_000)
    )
    inner = np.empty(len(train), int)
    for number, rows in enumerate(divide_groups(names, INNER_FOLDS)):
        inner[rows] = number
    # All folds have the same number of videos or nearly so; the mean is weighted by it.
    search = GridSearchCV(model, {"C": GRID}, cv=PredefinedSplit(inner))
    search.fit(features[train] - center, labels[train])
    ranked = [
        sum(
            search.cv_results_[f"split{n}_test_score"][i] * (inner == n).sum()
            for n in range(INNER_FOLDS)
        )
        for i in range(len(GRID))
    ]
    assert ranked[GRID.index(c)] == pytest.approx(max(ranked), abs=1.5)
    model.set_params(C=c).fit(features[train] - center, labels[train])
    if kind == "logistic":
        expected = model.predict_log_proba(features[test] - center)
    elif classes == 2:
        decision = model.decision_function(features[test] - center)
        expected = np.stack([-decision / 2, decision / 2], 1)
    else:
        expected = model.decision_function(features[test] - center)
    np.testing.assert_allclose(logits[:, :classes], expected, rtol=0.02, atol=0.02)
    assert (logits[:, classes:] < logits[:, :classes].min() - 50).all()


@pytest.mark.usefixtures("learn")
def test_held_out_scores_are_pooled(
    write: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "probe"
    assert main(["probe", write(), "--folds", "groups", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "linear SVM on pool5 of 24 videos" in printed
    assert "top-1 100.0% of 24 held-out videos" in printed
    assert "95% interval of top-1: 100.0% to 100.0% (bootstrap over 4 groups)" in printed
    assert "over 4 folds: mean 100.0%, standard deviation 0.0 points" in printed
    assert "LEAK" not in printed
    scores = read_score_file(out / "scores.npz")
    assert (scores.paths, scores.groups) == (index().paths, index().groups)
    assert scores.logits.shape == (24, 1, 3)
    assert (scores.logits[:, 0].argmax(1) == scores.labels).all()
    assert scores.protocol["features"]["layer"] == "pool5"
    rows = list(csv.DictReader((out / "folds.csv").read_text().splitlines()))
    assert [(row["fold"], row["videos"]) for row in rows] == [(name, "6") for name in PEOPLE]
    assert (out / "per_class.csv").is_file()


@pytest.mark.usefixtures("learn")
def test_the_split_of_the_data_set_is_the_default(
    write: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    seen = tuple(split == "test" for split in index().splits)
    assert main(["probe", write(seen=seen), "--c=10", "--classifier=logistic"]) == 0
    printed = capsys.readouterr().out
    assert "top-1 100.0% of 6 held-out videos" in printed
    assert "over" not in printed.replace("bootstrap over", "")
    assert "LEAK: the network was trained on 6 held-out videos" in printed


@pytest.mark.usefixtures("learn")
def test_clips_are_averaged_and_groups_captured(
    write: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = values()[:, None] + np.array([[[-1.0], [1.0]]], np.float32)
    protocol = {"layer": "pool5", "per_clip": True}
    path = write(array=clips, groups=("",) * 24, protocol=protocol)
    arguments = ["--folds=2", "--group-pattern", "^([a-z]+)_", "--c=1"]
    outputs = []
    for features in (path, write("mean.npz")):
        out = tmp_path / Path(features).stem
        assert main(["probe", features, *arguments, "--out", str(out)]) == 0
        outputs.append(read_score_file(out / "scores.npz"))
    np.testing.assert_allclose(outputs[0].logits, outputs[1].logits, rtol=1e-2, atol=1e-3)
    assert outputs[0].groups == index().groups
    assert "2 folds" in capsys.readouterr().out


def write_lists(root: Path, absent: str = "") -> None:
    """Write a data set in the layout of UCF101 whose split k tests person k."""
    (root / "ucfTrainTestlist").mkdir(parents=True)
    names = "".join(f"{number} {name}\n" for number, name in enumerate(CLASSES, start=1))
    (root / "ucfTrainTestlist" / "classInd.txt").write_text(names)
    paths = [Path(path) for path in (*index().paths, *([absent] if absent else []))]
    for path in paths:
        (root / path.parent.name).mkdir(exist_ok=True)
        (root / path.parent.name / path.name).touch()
    for number, tested in enumerate(PEOPLE[:3], start=1):
        lines: dict[bool, list[str]] = {False: [], True: []}
        for path in paths:
            is_test = path.name.startswith(tested)
            label = "" if is_test else f" {CLASSES.index(path.parent.name) + 1}"
            lines[is_test].append(f"{path.parent.name}/{path.name}{label}\n")
        for is_test, kind in ((False, "train"), (True, "test")):
            text = "".join(lines[is_test])
            (root / "ucfTrainTestlist" / f"{kind}list0{number}.txt").write_text(text)


@pytest.mark.usefixtures("learn")
def test_the_official_splits_of_ucf101(
    write: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lists(tmp_path / "ucf101")
    out = tmp_path / "probe"
    arguments = ["--ucf101", str(tmp_path / "ucf101"), "--c=1", "--out", str(out)]
    assert main(["probe", write(), *arguments]) == 0
    assert "over 3 folds" in capsys.readouterr().out
    scores = read_score_file(out / "scores.npz")
    assert set(scores.groups) == set(PEOPLE[:3])
    write_lists(tmp_path / "more", absent="set/run/eve_1.avi")
    assert main(["probe", write(), "--ucf101", str(tmp_path / "more")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "train videos have no features (run/eve_1.avi); compute those of all videos" in line


@pytest.mark.usefixtures("learn")
@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, ["--folds=5"], "--folds 5: give 2 to 4, the number of groups"),
        ({}, ["--folds=groups", "--group-pattern=^(x)_"], "finds no group in ann_1 (24 of 24"),
        ({}, ["--folds=groups", "--group-pattern=[.]?([0-9]*)$", "--c=-1"], "above 0"),
        ({"groups": ("x",) * 24}, ["--folds=groups"], "all 24 videos are in one group (x)"),
        ({"groups": ("",) * 24}, ["--folds=groups"], "24 of 24 videos have no group"),
        ({"splits": ("",) * 24}, [], "0 videos for training and 0 for testing; give --folds"),
        (
            {"groups": tuple("a" if label else "b" for label in index().labels)},
            ["--folds=groups"],
            "fold a: there is no training video of the class run and 1 more; leave the class out",
        ),
        ({"labels": (1,) * 24}, [], "all videos are of the class run"),
        ({"groups": ("x",) * 24}, [], "are all in one group (x), so C cannot be chosen"),
        ({}, ["--ucf101=x", "--folds=groups"], "give --ucf101 or --folds, not both"),
    ],
)
def test_wrong_use_is_one_line(
    write: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
    arguments: list[str],
    message: str,
) -> None:
    assert main(["probe", write(**changes), *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.usefixtures("learn")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": {"layer": "res4", "per_clip": False}}, "(layer res4, not pool5)"),
        ({"weights_sha256": "1" * 64}, "(of other weights)"),
        ({"class_names": ("a", "b", "c")}, "(of other classes)"),
        ({}, "has features in two files; give each video once"),
    ],
)
def test_features_that_do_not_belong_together(
    write: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
    message: str,
) -> None:
    assert main(["probe", write(), write("other.npz", **changes)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_missing_scikit_learn_is_one_line(
    write: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert main(["probe", write()]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "p3d probe needs scikit-learn; install it: pip install 'p3d[learn]'" in line
