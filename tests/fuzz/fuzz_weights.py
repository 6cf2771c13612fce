"""Fuzz the reading of weight files and checkpoints: each must give a network or a `UserError`.

Small valid files of every format are changed at random, with a seed: bits, numbers, cuts, copies,
instructions of pickles, entries of JSON. The changed files are read in a child process with a limit
on memory and time. Run it by hand for longer than the test does:

    PYTHONPATH=src:tests python tests/fuzz/fuzz_weights.py --seconds 300
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickletools
import random
import re
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from helpers.weight_files import caffemodel, randomize
from p3d.data.dataset import VideoDataset, VideoRecord
from p3d.data.layouts import DataOptions
from p3d.errors import UserError
from p3d.model import blocks, network
from p3d.run_folder import checkpoint_path
from p3d.system.distributed import Group
from p3d.training.checkpoint_files import read_newest, write_checkpoint
from p3d.training.options import TrainOptions
from p3d.training.recipes import SAMPLE
from p3d.training.resume import restorable_network
from p3d.training.state import build_state
from p3d.weights import describe
from p3d.weights.loading import load_model
from p3d.weights.metadata import metadata_of, save_model
from p3d.weights.port import to_port

MEMORY = 2**30
"""Bytes of address space that a child may take in addition to the imported libraries."""
SECONDS = 10
"""Time limit of one file."""

CODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
NUMBERS = [0, 1, 127, 128, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1]
VALUES = [
    *(None, True, -1, 0, 2**31, 2**64, 1e308, float("nan"), "", "x", "rgb", "F64", [], {}),
    *([0, 0], [2**40, 2**40], {"a": 1}, "9" * 5000, "\u202e", [[[]]], "nan", "-1"),
]


RESUMED = TrainOptions(DataOptions(Path("videos")), SAMPLE)
"""Options of the run that the training checkpoints belong to."""


class TimeLimit(BaseException):
    """A file took too long."""


def shrink_network() -> None:
    """Make every network small, so that whole files have 100 kB."""
    blocks.PLANES = network.PLANES = (2, 3, 4, 5)
    network.FEATURES = describe.FEATURES = 20


def image_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of a P3D without T under the names of a 2-D ResNet."""
    parts = {"reduce": "1", "spatial": "2", "expand": "3"}
    found = {}
    for key, value in state.items():
        stem, _, leaf = key.rpartition(".")
        name = {"stem.conv": "conv1", "stem.bn": "bn1", "fc": "fc"}.get(stem)
        if match := re.fullmatch(r"res(\d)\.(\d+)\.(\w+)\.(\w+)", stem):
            stage, index, part, kind = match.groups()
            leafless = (
                f"{kind}{parts[part]}" if part in parts else f"downsample.{int(kind == 'bn')}"
            )
            name = f"layer{int(stage) - 1}.{index}.{leafless}"
        found[f"{name}.{leaf}"] = value
    return found


def valid_files(folder: Path) -> dict[str, bytes]:
    """Return small valid files of every format by name."""
    torch.manual_seed(0)
    model = network.create_model("p3d63", num_classes=3)
    state = randomize(model.state_dict())
    model.load_state_dict(state)
    flat = network.create_model("p3d63", num_classes=3, variant="2d")
    path = folder / "valid"

    def saved(value: Any, *, legacy: bool = False) -> bytes:
        torch.save(value, path, _use_new_zipfile_serialization=not legacy)
        return path.read_bytes()

    save_model(model, path, class_names=["a", "b", "c"], source="fuzz", recipe={"epochs": 3})
    files = {"safetensors": path.read_bytes(), "caffe": caffemodel(state)}
    momenta = {i: {"momentum_buffer": p.detach()} for i, p in enumerate(model.parameters())}
    optimizer = {"state": momenta, "param_groups": [{"lr": 0.1, "params": list(momenta)}]}
    checkpoint = {"format": "p3d-checkpoint", "model": state, "metadata": metadata_of(model)}
    port = {f"module.{key}": value for key, value in to_port(state).items()}
    return files | {
        "checkpoint": saved(checkpoint | {"optimizer": optimizer, "step": 3}),
        "port": saved({"state_dict": port, "epoch": 3, "best": torch.tensor(0.5)}),
        "training": training_checkpoint(folder),
        "legacy": saved({"state_dict": port, "epoch": 3}, legacy=True),
        "resnet": saved(image_state(flat.state_dict())),
    }


def training_checkpoint(folder: Path) -> bytes:
    """Return a checkpoint of a run after one step."""
    model = network.create_model("p3d63", num_classes=2)
    state = build_state(
        SAMPLE,
        model,
        VideoDataset(("a", "b"), (VideoRecord(Path("a.avi"), 0),)),
        torch.device("cpu"),
        clips_per_step=1,
        steps_per_epoch=4,
        seed=0,
        precision="fp32",
        compiled=False,
        group=Group(),
    )
    model(torch.randn(2, 3, 2, 16, 16)).square().sum().backward()
    state.optimizer.step()
    state.schedule.step()
    state.progress.step = state.progress.step_in_epoch = 1
    path = folder / "training"
    write_checkpoint(path, state.checkpoint({"--seed": "0"}))
    return path.read_bytes()


# ------------------------------------------------------------------ mutations


def position(rng: random.Random, data: bytearray) -> int:
    """Return an index, most often near the start or the end, where formats keep their structure."""
    size = max(1, len(data))
    near = rng.randrange(min(size, 4096))
    return rng.choice([near, near, size - 1 - near, rng.randrange(size)])


def flip_bits(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice([1, 1, 2, 8])):
        if data:
            data[position(rng, data)] ^= 1 << rng.randrange(8)


def set_number(rng: random.Random, data: bytearray) -> None:
    at, width = position(rng, data), rng.choice([1, 2, 4, 8])
    number = rng.choice(NUMBERS) % 2 ** (8 * width)
    data[at : at + width] = number.to_bytes(width, rng.choice(["little", "big"]))


def cut(rng: random.Random, data: bytearray) -> None:
    del data[position(rng, data) :]


def remove(rng: random.Random, data: bytearray) -> None:
    at = position(rng, data)
    del data[at : at + rng.choice([1, 4, 16, 512])]


def copy(rng: random.Random, data: bytearray) -> None:
    source, target, size = position(rng, data), position(rng, data), rng.choice([1, 8, 64, 1024])
    piece = data[source : source + size]
    data[target : target + rng.choice([0, len(piece)])] = piece


def insert_codes(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice([1, 1, 3])):
        at = position(rng, data)
        data[at : at + rng.choice([0, 1])] = rng.choice(CODES)


MUTATIONS: list[Callable[[random.Random, bytearray], None]] = [
    *(flip_bits, set_number, cut, remove, copy, insert_codes)
]


def mutate(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        rng.choice(MUTATIONS)(rng, changed)
    return bytes(changed)


def mutate_members(rng: random.Random, data: bytes) -> bytes:
    """Change a file in a zip archive, most often the pickle, and write the right CRC."""
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        members = {name: source.read(name) for name in source.namelist()}
    pickle = next(name for name in members if name.endswith("data.pkl"))
    name = rng.choice([pickle, pickle, pickle, rng.choice(list(members))])
    members[name] = mutate(rng, members[name])
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", rng.choice([0, 0, 0, 8])) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return target.getvalue()


def mutate_json(rng: random.Random, data: bytes) -> bytes:
    """Change an entry in the header of a safetensors file, most often of the metadata."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    metadata = header["__metadata__"]
    if rng.random() < 0.5:
        metadata.pop("checksum", None)
    for _ in range(rng.choice([1, 1, 2])):
        entry = rng.choice([metadata, metadata, rng.choice(list(header.values()))])
        key = rng.choice(list(entry))
        value = rng.choice(VALUES)
        if key in ("preprocessing", "recipe", "class_names") and rng.random() < 0.8:
            inner = json.loads(entry[key])
            if isinstance(inner, dict):
                inner[rng.choice(list(inner))] = value
            else:
                inner[rng.randrange(len(inner))] = value
            value = json.dumps(inner)
        entry[key] = value if rng.random() < 0.2 else str(value)
        if entry is not metadata:
            entry[key] = value
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def make(files: dict[str, bytes], seed: int, index: int) -> tuple[str, bytes]:
    """Return the format and the bytes of one changed file."""
    rng = random.Random(f"{seed}-{index}")
    kind = rng.choice(list(files))
    data = files[kind]
    if kind == "safetensors" and rng.random() < 0.6:
        return kind, mutate_json(rng, data)
    if data[:2] == b"PK" and rng.random() < 0.7:
        return kind, mutate_members(rng, data)
    return kind, mutate(rng, data)


# ------------------------------------------------------------------ running


def read(kind: str, folder: Path, data: bytes) -> str:
    """Read a file; return "network", "UserError", or what went wrong."""
    path = checkpoint_path(folder, 1) if kind == "training" else folder / "w"
    path.write_bytes(data)
    try:
        if kind == "training":
            read_newest(folder, lambda found: restorable_network(found, RESUMED))
        else:
            load_model(path)
    except UserError as error:
        message = str(error)
        start = f"no checkpoint of {folder} can be read: " if kind == "training" else f"{path}: "
        if message.isprintable() and message.startswith(start) and len(message) < 1000:
            return "UserError"
        return f"message {message[:1200]!r}"
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} {error} ({Path(last.filename).name}:{last.lineno})"[:500]
    return "network"


def stop(*_: object) -> None:
    raise TimeLimit


def run_child(folder: Path, seed: int, start: int, count: int) -> None:
    """Read files, and print the index, format and result of each, then the peak of memory."""
    shrink_network()
    files = valid_files(folder)
    torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    signal.signal(signal.SIGALRM, stop)
    for kind, data in files.items():
        if (result := read(kind, folder, data)) != "network":
            raise RuntimeError(f"the valid {kind} file cannot be read: {result}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index in range(start, start + count):
        kind, data = make(files, seed, index)
        print(json.dumps([index, kind]), flush=True)
        signal.alarm(SECONDS)
        result = read(kind, folder, data)
        signal.alarm(0)
        print(json.dumps([index, kind, result]), flush=True)
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


def run_batch(seed: int, start: int, count: int) -> tuple[Counter[str], list[str], float]:
    """Run a child; return counts of results, failures, and the growth of its memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--child", folder, str(seed), str(start), str(count)]
        try:
            done = subprocess.run(
                command,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                capture_output=True,
                text=True,
                timeout=60 + SECONDS * 2 + count,
            )
            output, code, errors = done.stdout, done.returncode, done.stderr
        except subprocess.TimeoutExpired as error:
            output, code, errors = (error.stdout or b"").decode(), -1, "time limit of the child"
    lines = [json.loads(line) for line in output.splitlines()]
    results = [line for line in lines if isinstance(line, list) and len(line) == 3]
    counts = Counter(f"{kind} {result.split()[0]}" for _, kind, result in results)
    failures = [
        f"{kind} {seed}-{index}: {result}"
        for index, kind, result in results
        if result not in ("network", "UserError")
    ]
    if code:
        failures.append(f"child ended with {code} after {lines[-1:]}: {errors[-500:]}")
    growth = lines[-1] / 1024 if lines and isinstance(lines[-1], int) else 0.0
    return counts, failures, growth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=1000, help="files read by one child")
    parser.add_argument("--child", nargs=4, metavar=("FOLDER", "SEED", "START", "COUNT"))
    options = parser.parse_args()
    if options.child:
        run_child(Path(options.child[0]), *map(int, options.child[1:]))
        return
    end, start = time.monotonic() + options.seconds, 0
    total, failed, peak = Counter[str](), list[str](), 0.0
    while time.monotonic() < end:
        counts, failures, growth = run_batch(options.seed, start, options.batch)
        start, total, peak = start + options.batch, total + counts, max(peak, growth)
        failed += failures
        for failure in failures:
            print(failure, flush=True)
    print(json.dumps(dict(sorted(total.items())), indent=2))
    print(f"{total.total()} files, {len(failed)} failures, memory grew by {peak:.0f} MB at most")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
