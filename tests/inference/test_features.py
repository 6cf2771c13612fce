"""`p3d features`: values, files, resuming, several processes and wrong use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import p3d
from helpers.processes import finish, launch
from helpers.runs import copy_with_bad, start
from p3d.cli import main
from p3d.data.clips import read_eval_clips
from p3d.data.dataset import VideoRecord
from p3d.data.digests import video_digest
from p3d.data.layouts import read_dataset
from p3d.data.transforms import horizontal_flip
from p3d.inference.extractor import Extractor
from p3d.inference.feature_file import read_features
from p3d.inference.feature_folder import INDEX_FILE, FeatureFolder
from p3d.inference.feature_index import FeatureSet
from p3d.inference.feature_options import FeaturesOptions
from p3d.inference.scorer import Scorer
from p3d.model.network import P3D
from p3d.video.decode import open_video

pytestmark = pytest.mark.usefixtures("narrow_networks")

CLIPS = 2


@pytest.fixture(scope="module")
def model(sample: Path) -> P3D:
    """Return an untrained network for the sample set, which has seen its first test video."""
    torch.manual_seed(0)
    model = p3d.create_model("p3d63", num_classes=8)
    model.preprocessing = p3d.Preprocessing(num_frames=4, resize=(16, 20), crop=16)
    test = read_dataset(sample, "test")
    model.trained_on = frozenset({video_digest(test.records[0], test.class_names)})
    return model


@pytest.fixture(scope="module")
def weights(model: P3D, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "network.safetensors"
    p3d.save_model(model, path)
    return path


@pytest.fixture
def extract(sample: Path, weights: Path) -> Callable[..., int]:
    """Return a function that runs `p3d features` on the sample set."""

    def run(out: Path, *arguments: str, data: Path = sample) -> int:
        flags = flags_of(data, weights, out)
        return main([*flags, *arguments])

    return run


def flags_of(data: Path, weights: Path, out: Path) -> list[str]:
    options = {"data": data, "weights": weights, "out": out, "clips": CLIPS, "workers": 0}
    flags = [f"--{name}={value}" for name, value in options.items()]
    return ["features", *flags, "--device=cpu", "--threads=1"]


def clips_of(path: str, model: P3D) -> torch.Tensor:
    with open_video(Path(path)) as video:
        return read_eval_clips(video, model.preprocessing, CLIPS)


@pytest.fixture(scope="module")
def whole(sample: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of an uninterrupted command: pool5 of all videos."""
    out = tmp_path_factory.mktemp("whole") / "set.npz"
    assert main(flags_of(sample, weights, out)) == 0
    assert [path.name for path in out.parent.iterdir()] == ["set.npz"]
    return out


def test_a_set_has_the_mean_features_of_each_video(whole: Path, model: P3D) -> None:
    found = read_features(whole)
    assert found.values.shape == (32, 256)
    score = Scorer(model, torch.device("cpu"), layer="pool5")
    for row in (0, 31):
        expected = score(clips_of(found.index.paths[row], model)).mean(0)
        assert np.array_equal(found.values[row], expected.numpy())
    index = found.index
    assert [index.splits.count(split) for split in ("train", "validation", "test")] == [16, 8, 8]
    assert index.class_names[index.labels[0]] == Path(index.paths[0]).parent.name
    assert sum(index.seen) == 1
    assert index.splits[index.seen.index(True)] == "test"
    assert (index.protocol["layer"], index.protocol["clips"]) == ("pool5", CLIPS)
    assert index.protocol["preprocessing"]["crop"] == 16
    assert len(index.weights_sha256) == 64


def test_a_file_is_read_with_numpy_alone(whole: Path) -> None:
    with np.load(whole, allow_pickle=False) as arrays:
        assert sorted(arrays.files) == ["features", "header", "labels"]
        header = json.loads(arrays["header"].tobytes())
        assert (header["format"], header["version"]) == ("p3d features", 1)
        assert header["labels"] == arrays["labels"].tolist()


@pytest.mark.parametrize(
    ("layer", "shape"), [("prob", (8,)), ("res4", (128, 1, 1, 1)), ("res5c", (256, 1, 1, 1))]
)
def test_layers(
    extract: Callable[..., int], tmp_path: Path, model: P3D, layer: str, shape: tuple[int, ...]
) -> None:
    out = tmp_path / "set.npz"
    assert extract(out, "--layer", layer, "--split", "test", "--per-clip") == 0
    found = read_features(out)
    assert found.values.shape == (8, CLIPS, *shape)
    clips = clips_of(found.index.paths[3], model)
    if layer == "prob":
        expected = Scorer(model, torch.device("cpu"))(clips).softmax(-1)
    else:
        expected = Scorer(model, torch.device("cpu"), layer=layer[:4])(clips)
    assert np.array_equal(found.values[3], expected.numpy())


def test_mirrored_volumes_are_averaged_place_by_place(model: P3D) -> None:
    options = FeaturesOptions(
        p3d.DataOptions("x"), Path("w"), Path("o.npz"), layer="res4", mirror=True
    )
    clips = torch.randint(0, 256, (2, 8, 64, 64, 3), dtype=torch.uint8)
    mirrored = torch.stack([horizontal_flip(clip) for clip in clips])
    score = Scorer(model, torch.device("cpu"), layer="res4")
    expected = (score(clips) + score(mirrored).flip(-1)).mean(0) / 2
    extractor = Extractor(options, model, torch.device("cpu"))
    assert expected.shape[-1] > 1
    record = VideoRecord(Path("x"), 0)
    found = extractor.compute(record, clips)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6, atol=1e-7)
    found = extractor.compute(record, mirrored)
    np.testing.assert_allclose(found, expected.flip(-1).numpy(), rtol=1e-5, atol=1e-6)


def test_pooled_res5_is_pool5(whole: Path, extract: Callable[..., int], tmp_path: Path) -> None:
    out = tmp_path / "set.npz"
    assert extract(out, "--layer", "res5", "--pool", "--split", "train") == 0
    found, pool5 = read_features(out), read_features(whole)
    assert found.values.shape == (16, 256)
    np.testing.assert_allclose(found.values, pool5.values[:16], rtol=1e-5, atol=1e-6)


def same(first: FeatureSet, second: FeatureSet) -> bool:
    return first.index == second.index and np.array_equal(first.values, second.values)


def test_a_folder_holds_a_file_for_each_video(
    whole: Path, extract: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract(tmp_path / "set", "--per-video", "--workers=2") == 0
    assert "pool5 of 32 videos: 256 values each" in capsys.readouterr().out
    assert same(read_features(tmp_path / "set"), read_features(whole))
    files = sorted((tmp_path / "set").rglob("*.npy"))
    assert len(files) == 32
    assert all(file.name.endswith(".avi.npy") for file in files)


def test_a_killed_command_goes_on(
    whole: Path, sample: Path, weights: Path, extract: Callable[..., int], tmp_path: Path
) -> None:
    out = tmp_path / "set.npz"
    process = start(*flags_of(sample, weights, out))
    partial = tmp_path / ".set.npz.partial"
    while len(list(partial.rglob("*.npy"))) < 3:
        assert process.poll() is None
    process.kill()
    process.communicate()
    assert not out.exists()
    done = {path: path.stat().st_mtime_ns for path in partial.rglob("*.npy")}
    assert 3 <= len(done) < 32
    damaged = min(done)
    damaged.write_bytes(damaged.read_bytes()[:20])
    computed: list[str] = []
    original = FeatureFolder.add
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            FeatureFolder,
            "add",
            lambda self, file, values: (computed.append(file), original(self, file, values))[1],
        )
        assert extract(out) == 0
    assert len(computed) == 32 - len(done) + 1
    assert same(read_features(out), read_features(whole))
    assert not partial.exists()


def test_two_processes_write_the_same_file(
    whole: Path, sample: Path, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "set.npz"
    output = finish(launch(2, *flags_of(sample, weights, out)))
    assert output.count("written to") == 1
    assert same(read_features(out), read_features(whole))


def test_a_complete_file_is_left_and_its_groups_are_renewed(
    whole: Path, extract: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set.npz"
    shutil.copy(whole, out)
    before = out.read_bytes()
    assert extract(out) == 0
    assert "is complete already" in capsys.readouterr().out
    assert out.read_bytes() == before
    assert extract(out, "--group-pattern", "_g([0-9]+)_") == 0
    assert "renewed classes, groups and splits" in capsys.readouterr().out
    found, old = read_features(out), read_features(whole)
    assert set(found.index.groups) != set(old.index.groups)
    assert np.array_equal(found.values, old.values)


def test_videos_that_cannot_be_read_are_left_out(
    extract: Callable[..., int],
    sample: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = tmp_path / "set"
    [bad] = copy_with_bad(sample, data, slice(2, 3))
    out = tmp_path / "set.npz"
    assert extract(out, "--split=test", data=data) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert str(bad) in line
    assert line.endswith("; --on-bad-video skip goes on without it")
    assert extract(out, "--split=test", "--on-bad-video=skip", data=data) == 0
    assert f"LEFT OUT: 1 video that cannot be read:\n  {bad}: " in capsys.readouterr().out
    found = read_features(out)
    assert found.index.bad == (str(bad),)
    assert len(found.values) == len(found.index.paths) == 7
    assert extract(out, "--split=test", "--on-bad-video=skip", data=data) == 0
    assert "is complete already" in capsys.readouterr().out


def test_many_bad_videos_are_counted(
    extract: Callable[..., int],
    sample: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = tmp_path / "set"
    copy_with_bad(sample, data, slice(7))
    out = tmp_path / "set.npz"
    assert extract(out, "--split=test", "--on-bad-video=skip", data=data) == 0
    lines = capsys.readouterr().out.splitlines()
    place = lines.index("LEFT OUT: 7 videos that cannot be read:")
    assert lines[place + 6 :] == ["  and 2 more", f"written to {out}"]


@pytest.mark.parametrize("per_video", [[], ["--per-video"]])
def test_what_fails_at_once_leaves_nothing(
    per_video: list[str], sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flow = tmp_path / "flow.safetensors"
    p3d.save_model(p3d.create_model("p3d63", num_classes=8, modality="flow"), flow)
    out = tmp_path / ("out" if per_video else "out.npz")
    assert main([*flags_of(sample, flow, out), *per_video]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "holds pictures, but the network takes optical flow; prepare flow first" in line
    assert [*tmp_path.iterdir()] == [flow]


@pytest.mark.parametrize("name", ["", "test", "test/MoveUp/features"])
def test_files_of_videos_do_not_lie_among_the_videos(
    name: str,
    extract: Callable[..., int],
    sample: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sorted(sample.rglob("*"))
    data = sample if name != "test" else sample / "test"  # as folders of classes
    assert extract(sample / name, "--per-video", data=data) == 2
    [line] = capsys.readouterr().err.splitlines()
    rule = "would become a part of" if "/" in name else "holds"
    assert f"--out {sample / name}: {rule} the data set" in line
    assert sorted(sample.rglob("*")) == before


def test_a_first_video_that_ends_the_command_leaves_nothing(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "set" / "walk").mkdir(parents=True)
    for name in "ab":
        (tmp_path / "set" / "walk" / f"{name}.avi").write_bytes(b"no video")
    assert main(flags_of(tmp_path / "set", weights, tmp_path / "out.npz")) == 2
    assert "--on-bad-video skip goes on without it" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_folder_that_is_not_complete_cannot_be_read(
    extract: Callable[..., int], tmp_path: Path
) -> None:
    assert extract(tmp_path / "set", "--per-video", "--split=test") == 0
    min((tmp_path / "set").rglob("*.npy")).unlink()
    with pytest.raises(p3d.UserError, match=r"1 of 8 videos have no features .* which goes on"):
        read_features(tmp_path / "set")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layer=res4"], "holds other features (layer pool5, not res4); delete it"),
        (["--mirror"], "holds other features (mirror False, not True)"),
        (["--split=test"], "holds the features of other videos (32, not 8)"),
        (["--pool"], "--pool: pool5 is pooled already"),
        (["--clips=0"], "--clips is 0; give 1 or more"),
        (["--workers=-1"], "--workers is -1; give 0 or more"),
        (["--per-video"], "is a file; --per-video writes a folder"),
        (["--group-pattern=^(xyz)"], "finds no group in"),
        (["--out=features"], "give a file that ends in .npz, or --per-video"),
        (["--layer=fc6"], "choose one of: pool5, prob, res5, res5c, res4"),
    ],
)
def test_wrong_use_is_one_line(
    whole: Path,
    extract: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert extract(whole, *arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_features_of_other_weights_do_not_mix(
    extract: Callable[..., int],
    model: P3D,
    sample: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "set"
    assert extract(out, "--per-video", "--split=test") == 0
    other = tmp_path / "other.safetensors"
    p3d.save_model(model, other, source="elsewhere")
    capsys.readouterr()
    assert main([*flags_of(sample, other, out), "--per-video", "--split=test"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"{out}: holds other features (of other weights); delete it" in line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "p3d scores"}, "is not a file of p3d features, or is damaged"),
        ({"version": 2}, "has version 2 of the format, this p3d reads 1; install a newer p3d"),
        ({"labels": [99]}, "is not a file of p3d features, or is damaged"),
        ({"protocol": None}, "is not a file of p3d features, or is damaged"),
    ],
)
def test_damaged_headers_are_one_line(
    whole: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with np.load(whole) as arrays:
        header = json.loads(arrays["header"].tobytes()) | change
        text = np.frombuffer(json.dumps(header).encode(), np.uint8)
        np.savez(tmp_path / "x.npz", header=text, features=arrays["features"])
    (tmp_path / INDEX_FILE).write_text(json.dumps(header | {"files": ["x.npy"]}))
    for path in (tmp_path / "x.npz", tmp_path):
        with pytest.raises(p3d.UserError) as caught:
            read_features(path)
        assert message in str(caught.value)
