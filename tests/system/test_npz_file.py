"""`.npz` files with a header: what is damaged or of another kind is one line."""

from __future__ import annotations

import random
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from p3d.errors import UserError
from p3d.system.npz_file import NpzFormat

FORMAT = NpzFormat("p3d test", version=1, remedy="write it again")
DAMAGED = re.escape("a.npz: is not a file of p3d test, or is damaged; write it again")


def write(path: Path) -> bytes:
    """Write a small file and return its bytes."""
    FORMAT.write(path, {"names": ["a"]}, {"x": np.arange(3, dtype=np.float32)})
    return path.read_bytes()


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    write(tmp_path / "a.npz")
    header, arrays = FORMAT.read(tmp_path / "a.npz")
    assert header == {"format": "p3d test", "version": 1, "names": ["a"]}
    assert FORMAT.read_header(tmp_path / "a.npz") == header
    assert arrays.keys() == {"x"}
    assert arrays["x"].tolist() == [0, 1, 2]


def test_a_flipped_bit_is_damage_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    content = write(path)
    directory = 8 * content.index(b"PK\1\2")
    damaged = refused = 0
    # Of the directory, the lowest bit of each byte: one of them says that a file is encrypted.
    for position in [*range(0, directory, 17), *range(directory, 8 * len(content), 8)]:
        changed = bytearray(content)
        changed[position // 8] ^= 1 << position % 8
        path.write_bytes(changed)
        try:
            _, arrays = FORMAT.read(path)
        except UserError as error:
            refused += 1
            damaged += bool(re.search(DAMAGED, str(error)))
            continue
        assert all(array.tolist() == [0, 1, 2] for array in arrays.values())
    assert damaged == refused > 100


def array_file(header: str) -> bytes:
    """Return a `.npy` file with this text in its header."""
    text = f"{header:117}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }"


@pytest.mark.parametrize(
    "header",
    [
        HEADER.replace("(3,)", f"({10**14},)"),
        HEADER.replace("}", ""),
        HEADER.replace("3", "03"),
        HEADER.replace("<f4", "|O"),
        "(" * 100,
    ],
)
def test_damaged_headers_of_arrays_are_one_line(header: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y.npy", array_file(header))
    with pytest.raises(UserError, match=DAMAGED):
        FORMAT.read(path)


def test_damaged_texts_of_headers_are_one_line(tmp_path: Path) -> None:
    path, rng = tmp_path / "a.npz", random.Random(0)
    write(path)
    with zipfile.ZipFile(path) as archive:
        header = archive.read("header.npy")
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        for _ in range(50):
            text = bytearray(array_file(HEADER))
            text[rng.randrange(10, 70)] = rng.choice(b"(){}[]',: 9\0\xff\\\n")
            with zipfile.ZipFile(path, "w", compression) as archive:
                archive.writestr("header.npy", header)
                archive.writestr("x.npy", text)
            with pytest.raises(UserError, match=DAMAGED):
                FORMAT.read(path)


def test_a_file_that_cannot_be_opened_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(UserError, match=r"a\.npz: cannot be read \(Is a directory\)"):
        FORMAT.read(tmp_path / "a.npz")
    with pytest.raises(UserError, match=r"b\.npz: no such file; write it again"):
        FORMAT.read_header(tmp_path / "b.npz")
