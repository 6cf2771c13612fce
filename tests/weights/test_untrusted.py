"""Hostile and damaged weight files of every format: one line, before anything is built."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.weight_files import blob, field, image_resnet, layer
from p3d.errors import UserError
from p3d.model.config import P3DConfig
from p3d.model.network import create_model
from p3d.weights import pickles
from p3d.weights.evidence import infer_origin
from p3d.weights.loading import convert_state_dict, load_model
from p3d.weights.reading import read_contents
from p3d.weights.torch_files import open_torch_file

pytestmark = pytest.mark.usefixtures("few_channels_in_module")

STEM = torch.ones(64, 3, 7, 7)


def refused(path: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()


# ------------------------------------------------------------------ pickles


def write_zip(path: Path, program: bytes, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", program)
        for name, data in members.items():
            archive.writestr(f"a/data/{name[1:]}", data)


def storage(kind: bytes = b"ctorch\nFloatStorage\n", *, count: int = 4) -> bytes:
    """Encode a reference to storage 0."""
    return b"(U\x07storage" + kind + b"U\x010U\x03cpuJ" + struct.pack("<i", count) + b"tQ"


def tensor(*shape: int, stride: tuple[int, ...], count: int = 4) -> bytes:
    """Encode a tensor in storage 0."""
    sizes = [
        b"(" + b"".join(b"J" + struct.pack("<i", n) for n in x) + b"t" for x in (shape, stride)
    ]
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    return rebuild + b"(" + storage(count=count) + b"K\x00" + sizes[0] + sizes[1] + b"\x89NtR"


def entry(value: bytes) -> bytes:
    """Encode a state dict of one value."""
    return b"\x80\x02}U\x10stem.conv.weight" + value + b"s."


NESTED = b")" + b"q\x00h\x00\x86" * 60  # 2**60 empty tuples, to a hash function

PROGRAMS = {
    "bytearray": (
        b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
        "objects other than ten",
    ),
    "function": (b"\x80\x02cos\nsystem\nU\x02ls\x85R.", r"other than tensors \(os\.system\)"),
    "control": (b"\x80\x02co\x1b[2Js\nsystem\n.", r"\(o\\x1b\[2Js\.system\)"),
    "instruction": (b"\x80\x02(I1\ndi.", "instruction b'I'"),
    "long integer": (b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\x01" * 99 + b".", "instruction b'.x8b'"),
    "protocol": (b"\x80\x04\x95\x01\0\0\0\0\0\0\0.", "another pickle_protocol"),
    "no values": (b"\x80\x02s.", "damaged"),
    "no mark": (b"\x80\x02t.", "damaged"),
    "cut": (b"\x80\x02}", "damaged"),
    "long string": (b"\x80\x02X\xff\xff\xff\x7fabc.", "damaged or incomplete"),
    "loop": (b"\x80\x02" + b"]" * 1001 + b".", "too many instructions"),
    "not a dict": (b"\x80\x02]q\x00h\x00a.", "contains a list"),
    "expanded": (entry(tensor(64, 10**6, stride=(0, 1))), "has a storage of 4 values"),
    "strided": (entry(tensor(2, 2, stride=(4, 1))), "has a storage of 4 values"),
    "negative": (entry(tensor(-4, stride=(1,))), "something else than sizes"),
    "deep": (entry(tensor(*[1] * 9, stride=(1,) * 9)), "no short list"),
    "larger": (entry(tensor(2**30, stride=(1,), count=2**30)), "missing or has another size"),
    "no type": (entry(tensor(4, stride=(1,)).replace(b"Float", b"Cow")), "CowStorage|damaged"),
    "nested key": (b"\x80\x02}" + NESTED + b"Ns.", r"tensors \(none\)"),
    "nested call": (b"\x80\x02cbuiltins\nset\n" + NESTED + b"\x85R.", "contains a single value"),
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_refuses_a_pickle_that_torch_save_does_not_write(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickles, "_MAX_INSTRUCTIONS", 1000)
    program, message = PROGRAMS[kind]
    write_zip(tmp_path / "zip", program, _0=bytes(16))
    refused(tmp_path / "zip", message)
    head = b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {}))
    keys = pickle.dumps(["0"] if b"storage" in program else [], 2)
    (tmp_path / "legacy").write_bytes(head + program + keys + struct.pack("<q", 4) + bytes(16))
    if kind != "larger":  # the storage is found missing when its size is read
        refused(tmp_path / "legacy", message)


def test_refuses_a_storage_that_a_legacy_file_does_not_contain(tmp_path: Path) -> None:
    torch.save({"stem.conv.weight": STEM}, tmp_path / "x", _use_new_zipfile_serialization=False)
    data = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(data[:-1])
    refused(tmp_path / "x", "storage .* is cut")
    (tmp_path / "x").write_bytes(pickle.dumps({"a": 1}, 2))
    refused(tmp_path / "x", "PyTorch did not write it")


# ------------------------------------------------------------------ zip archives


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    torch.save({"stem.conv.weight": STEM}, tmp_path / "w.pth")
    return tmp_path / "w.pth"


def rewrite(path: Path, *, compression: int = zipfile.ZIP_STORED, **added: bytes) -> None:
    """Write all members of an archive again."""
    with zipfile.ZipFile(path) as source:
        members = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w", compression) as target:
        for name, data in (members | {f"w/{k}.pkl": v for k, v in added.items()}).items():
            target.writestr(name, data)


def test_refuses_a_compressed_archive(archive: Path) -> None:
    rewrite(archive, compression=zipfile.ZIP_DEFLATED)
    refused(archive, "compressed or encrypted")


def test_refuses_a_program(archive: Path) -> None:
    rewrite(archive, constants=b"")
    refused(archive, "TorchScript")


def test_finds_one_damaged_bit_by_the_crc(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(data)
    refused(archive, "CRC-32")


def test_reads_an_archive_without_crc(tmp_path: Path) -> None:
    set_options = getattr(torch.serialization, "set_crc32_options", None)
    if set_options is None:
        pytest.skip("this PyTorch always writes the CRC")
    set_options(False)
    try:
        torch.save({"stem.conv.weight": STEM}, tmp_path / "w.pth")
    finally:
        set_options(True)
    assert torch.equal(read_contents(tmp_path / "w.pth").state["stem.conv.weight"], STEM)


def test_refuses_members_that_overlap(archive: Path) -> None:
    """Many entries for the same bytes."""
    with zipfile.ZipFile(archive) as source:
        infos = source.infolist()
        data = [source.read(info) for info in infos]
    largest = max(infos, key=lambda info: info.file_size)
    with zipfile.ZipFile(archive, "w") as target:
        for info, content in zip(infos, data, strict=True):
            target.writestr(info.filename, content)
        entries = {info.filename: info for info in target.infolist()}
        for i in range(3):
            copy = zipfile.ZipInfo(f"w/data/{i + 7}")
            twin = entries[largest.filename]
            copy.header_offset, copy.CRC = twin.header_offset, twin.CRC
            copy.file_size = copy.compress_size = twin.file_size
            target.filelist.append(copy)
    refused(archive, "overlap")


@pytest.mark.parametrize("at", [-22, -14, -10, 0, 26, 28])
def test_refuses_a_damaged_archive(archive: Path, at: int) -> None:
    rewrite(archive)
    data = bytearray(archive.read_bytes())
    data[at] ^= 0x40
    archive.write_bytes(data)
    refused(archive, "damaged|neither")


# ------------------------------------------------------------------ what torch.load reads

HALVES = torch.arange(24.0).reshape(4, 6)
VALUES: dict[str, Any] = {
    "float": torch.randn(3, 2, 5),
    "half": torch.randn(7).half(),
    "bfloat": torch.randn(7).bfloat16(),
    "double": torch.randn(2, dtype=torch.float64),
    "long": torch.tensor(3),
    "bool": torch.tensor([True, False]),
    "empty": torch.empty(0, 3),
    "transposed": HALVES.t(),
    "part": HALVES[1:3, 2:],
    "channels last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "parameter": nn.Parameter(torch.randn(2, 2)),
    "twin": HALVES,
}


@pytest.mark.parametrize("legacy", [False, True])
def test_reads_the_tensors_that_torch_load_reads(tmp_path: Path, legacy: bool) -> None:
    others = {"acc": np.float64(3), "size": torch.Size([2]), "set": {1}, 5: 2.5, "d": torch.float32}
    path = tmp_path / "w.pth"
    torch.save(VALUES | others, path, _use_new_zipfile_serialization=not legacy)
    file = open_torch_file(path)
    found = file.tensors(file.contents)
    assert found.keys() == VALUES.keys()
    for key, value in VALUES.items():
        assert (found[key].dtype, found[key].stride()) == (value.dtype, value.stride()), key
        assert torch.equal(found[key], value), key
    assert file.contents[5] == 2.5


class PythonTwo:
    """Pickles as the OrderedDict of Python 2."""

    def __reduce__(self) -> tuple[type, tuple[list[list[Any]]]]:
        return OrderedDict, ([["stem.conv.weight", STEM]],)


def test_reads_other_ways_of_writing_a_state_dict(tmp_path: Path) -> None:
    state: Any = OrderedDict({"stem.conv.weight": STEM})
    state._metadata = OrderedDict({"": {"version": 1}})
    for value in (state, PythonTwo()):
        torch.save({"state_dict": value}, tmp_path / "w.pth")
        assert torch.equal(read_contents(tmp_path / "w.pth").state["stem.conv.weight"], STEM)


def test_reads_a_part_of_a_storage_as_older_versions_saved_it(tmp_path: Path) -> None:
    """A view: its name, its first value and its length."""
    view = tensor(3, stride=(1,)).replace(b"tQ", b"(U\x01vK\x01K\x03ttQ", 1)
    values = np.arange(4, dtype="<f4")
    write_zip(tmp_path / "w.pth", entry(view), _0=values.tobytes())
    file = open_torch_file(tmp_path / "w.pth")
    assert file.tensors(file.contents)["stem.conv.weight"].tolist() == [1, 2, 3]


def test_reads_the_other_byte_order(tmp_path: Path) -> None:
    torch.save({"stem.conv.weight": STEM}, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as source:
        members = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(tmp_path / "big.pth", "w") as target:
        for name, data in members.items():
            values = (
                np.frombuffer(data, "<f4").astype(">f4").tobytes() if name == "w/data/0" else data
            )
            target.writestr(name, b"big" if name == "w/byteorder" else values)
    assert torch.equal(read_contents(tmp_path / "big.pth").state["stem.conv.weight"], STEM)


@pytest.mark.parametrize(
    "prefix",
    ["module.", "module.module.", "_orig_mod.", "module._orig_mod.", "model.", "model.net."],
)
def test_prefixes_of_wrapped_networks_are_removed(tmp_path: Path, prefix: str) -> None:
    state = {f"{prefix}stem.conv.weight": STEM, "n_averaged": torch.tensor(3)}
    torch.save(state, tmp_path / "w.pth")
    assert list(read_contents(tmp_path / "w.pth").state) == ["stem.conv.weight"]
    assert list(convert_state_dict(state)) == ["stem.conv.weight"]


def test_refuses_two_networks_under_two_prefixes() -> None:
    state = {"module.stem.conv.weight": STEM, "stem.conv.weight": STEM}
    with pytest.raises(UserError, match=r"stem\.conv\.weight more than once"):
        convert_state_dict(state)


@pytest.mark.parametrize(
    "wrappers",
    [
        ["state_dict"],
        ["model"],
        ["model_state_dict"],
        ["net"],
        ["weights"],
        ["module"],
        ["model", "state_dict"],
    ],
)
def test_state_dicts_are_found_in_their_wrappers(tmp_path: Path, wrappers: list[str]) -> None:
    contents: dict[str, Any] = {"stem.conv.weight": STEM}
    for name in reversed(wrappers):
        contents = {"epoch": 3, "optimizer": {"state": {0: {"step": STEM}}}, name: contents}
    torch.save(contents, tmp_path / "w.pth")
    assert torch.equal(read_contents(tmp_path / "w.pth").state["stem.conv.weight"], STEM)


# ------------------------------------------------------------------ safetensors


def write_safetensors(path: Path, header: Any, data: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def one(**changes: Any) -> dict[str, Any]:
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


HEADERS: dict[str, tuple[Any, str]] = {
    "list": (b"{}", "8 bytes of data, its header states 0"),
    "deep": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "not JSON"),
    "not JSON": (b"{" + b"\xff" * 9, "not JSON"),
    "metadata": ({"__metadata__": {"a": 1}} | one(), "metadata is no text"),
    "type": (one(dtype="F7"), "type, shape or size of x"),
    "type of another kind": (one(dtype=[]), "type, shape or size of x"),
    "negative": (one(shape=[-2]), "type, shape or size of x"),
    "huge": (one(shape=[2**62, 4, 0]), "type, shape or size of x"),
    "boolean": (one(shape=[True, 2]), "type, shape or size of x"),
    "text": (one(shape="22"), "type, shape or size of x"),
    "no entry": ({"x": 3}, "type, shape or size of x"),
    "reversed": (one(data_offsets=[8, 0]), "type, shape or size of x"),
    "gap": (one(data_offsets=[4, 12]), "overlap or leave a gap"),
    "overlap": (one() | {"y": one()["x"]}, "overlap or leave a gap"),
    "short": (one(shape=[1], data_offsets=[0, 4]), "8 bytes of data, its header states 4"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_refuses_a_damaged_safetensors_header(kind: str, tmp_path: Path) -> None:
    header, message = HEADERS[kind]
    write_safetensors(tmp_path / "x", header, bytes(8))
    refused(tmp_path / "x", message)


def test_a_header_size_that_looks_like_a_web_page(tmp_path: Path) -> None:
    header = json.dumps(one(shape=[8], data_offsets=[0, 32])).ljust(0x3C20).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + bytes(32))
    assert (tmp_path / "x").read_bytes()[:2] == b" <"
    refused(tmp_path / "x", r"its tensors \(x, \.\.\.\) are not those of a P3D")


def test_refuses_a_long_safetensors_header(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(struct.pack("<Q", 2**40) + b"{}")
    refused(tmp_path / "x", "header is too large")


# ------------------------------------------------------------------ caffemodel

ONES = torch.ones(2, 3, 1, 1, 1)
BLOBS = {
    "negative": blob(ONES, shape=[2**64 - 2, 2**64 - 3, 1]),
    "bytes": field(7, field(1, b"\x01")) + field(5, b"abc"),
    "huge": blob(ONES, shape=[2**40, 2**40]),
    "none": b"",
}


@pytest.mark.parametrize("kind", BLOBS)
def test_refuses_a_blob_of_another_size(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(layer("conv1", "Convolution", [BLOBS[kind]]))
    refused(tmp_path / "x", "layer conv1 has . packed values for a blob of shape")


MESSAGES = {
    "many layers": field(100, b"") * 100_001,
    "many blobs": field(100, field(7, b"") * 100_001),
    "a long name": layer("conv1" * 100, "Convolution", [blob(ONES)]),
    "a name in no encoding": field(100, field(1, b"\xff\xfe")),
    "a long number": field(100, b"\x08" + b"\xff" * 11),
    "a group": field(100, b"\x0b"),
    "cut blob": field(100, field(7, b"\x2a\x7f")),
    "many axes": field(100, field(7, field(7, field(1, b"\x01" * 257)))),
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_refuses_a_damaged_caffemodel(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(MESSAGES[kind])
    refused(tmp_path / "x", "nor a complete .caffemodel")


# ------------------------------------------------------------------ tensors


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    model = create_model("p3d63", num_classes=2)
    return {key: value.half() for key, value in model.state_dict().items() if value.dim()}


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "no variance": ({"stem.bn.running_var": None}, r"2 missing \(stem\.bn\.running_var"),
    "shape": ({"stem.bn.running_var": torch.ones(3)}, "1 misshapen"),
    "counter": ({"stem.bn.num_batches_tracked": torch.ones(2)}, "1 misshapen"),
    "integers": ({"fc.bias": torch.ones(2, dtype=torch.int64)}, r"unusable type \(fc\.bias int64"),
    "complex": (
        {"fc.bias": torch.ones(2, dtype=torch.complex64)},
        "unusable type .fc.bias complex",
    ),
    "sparse": ({"fc.bias": torch.ones(2).to_sparse()}, r"1 missing \(fc\.bias\)"),
    "meta": ({"fc.bias": torch.ones(2, device="meta")}, r"1 missing \(fc\.bias\)"),
    "classes": ({"fc.weight": torch.empty(0, 2048)}, "0 classes, not 1 to 100000"),
    "many classes": ({"fc.weight": torch.empty(100_001, 1).half()}, "100001 classes, not 1 to"),
    "name": ({"e\n\u202e" + "x" * 999: torch.ones(1)}, r"unexpected \(e\\n\\u202exxxx*\.\.\.\)"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_refuses_tensors_that_are_not_the_networks(
    state: dict[str, Tensor], kind: str, tmp_path: Path
) -> None:
    changes, message = CHANGES[kind]
    # The head alone decides on the number of classes.
    base = {k: v for k, v in state.items() if "classes" not in kind or v.numel() < 10_000}
    base |= (
        {"res4.5.x": STEM, "res3.3.x": STEM, "res2.2.x": STEM, "res5.2.x": STEM}
        if ("classes" in kind)
        else {}
    )
    changed = {k: v for k, v in (base | changes).items() if v is not None}
    torch.save(changed, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", message)


def test_a_counter_may_be_any_number(state: dict[str, Tensor]) -> None:
    counters = {"stem.bn.num_batches_tracked": torch.tensor(float("nan"))}
    config = P3DConfig("p3d63", 2)
    assert infer_origin(state | counters, config, port=True)[0] == "port"


def test_2d_weights_are_checked_before_they_are_inflated(tmp_path: Path) -> None:
    state = image_resnet("p3d63", classes=2).state_dict()
    state["layer2.0.bn2.weight"] = torch.ones(1).half()
    torch.save(state, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "1 misshapen .res3.0.spatial.bn.weight")


def test_refuses_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "is a pipe or a device")
