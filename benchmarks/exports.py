"""Export many networks in many forms, compare each file with PyTorch, and print a table.

    python benchmarks/exports.py --part forms --out forms.json

Part "forms" exports networks of one block a stage, with clips of 4 frames of 32x32 pixels, in every
form of the file. Part "depths" exports whole networks. An error is the largest difference of a
logit from PyTorch's in fp32, in units of the largest logit.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch

from p3d.errors import UserError
from p3d.inference.export import export_network
from p3d.inference.export_spec import SUFFIXES, ExportSpec
from p3d.model.config import BLOCKS, P3DConfig
from p3d.model.network import P3D
from p3d.system.device import set_up_cpu
from p3d.system.files import write_json
from p3d.system.text import format_table

FRAMES, SIZE = 4, 32
FIXED = ExportSpec("onnx", frames=FRAMES, size=SIZE)
FORMS = {
    "fixed": FIXED,
    "free batch": replace(FIXED, batch=None),
    "free clip length": replace(FIXED, frames=None),
    "free size": replace(FIXED, size=None),
    "all three free": replace(FIXED, batch=None, frames=None, size=None),
    "four dims": replace(FIXED, four_dims=True),
    "four dims, free batch": replace(FIXED, four_dims=True, batch=None),
}


@dataclass(frozen=True)
class Case:
    """A network and the form of its file."""

    name: str
    config: P3DConfig
    spec: ExportSpec


def forms() -> Iterator[Case]:
    """Yield small networks in all forms."""
    for modality, wiring, variant in product(
        ("rgb", "flow"), ("author", "port"), ("A", "B", "C", "ABC", "2d")
    ):
        config = P3DConfig("p3d63", 4, modality, wiring, variant)  # type: ignore[arg-type]
        kinds = FORMS if variant == "ABC" else {"fixed": FIXED}
        for form, inside, suffix in product(kinds, (False, True), (".onnx", ".xml")):
            if variant != "ABC" and inside:
                continue
            words = f"{form}, preprocessing inside" if inside else form
            spec = replace(kinds[form], with_preprocessing=inside, backend=SUFFIXES[suffix])
            yield Case(f"{modality} {wiring} {variant}, {words}, {suffix}", config, spec)


def packages() -> Iterator[Case]:
    """Yield small networks as packages of compiled code, which take long to make."""
    for modality, wiring in product(("rgb", "flow"), ("author", "port")):
        config = P3DConfig("p3d63", 4, modality, wiring)  # type: ignore[arg-type]
        for precision, (form, spec) in product(("fp32", "bf16"), FORMS.items()):
            if spec.size is None or (modality == "flow" and form not in ("fixed", "four dims")):
                continue
            spec = replace(
                spec,
                backend="aot",
                precision=precision,  # type: ignore[arg-type]
                with_preprocessing=form != "fixed",
            )
            yield Case(f"{modality} {wiring} ABC, {form}, .pt2 {precision}", config, spec)


def depths() -> Iterator[Case]:
    """Yield whole networks."""
    for name, backend in product(("p3d63", "p3d131", "p3d199"), SUFFIXES.values()):
        config = P3DConfig(name, 101)  # type: ignore[arg-type]
        yield Case(f"{name}, {backend}", config, replace(FIXED, backend=backend))


PARTS = {"forms": forms, "packages": packages, "depths": depths}


def network(config: P3DConfig) -> P3D:
    """Return an untrained network whose logits differ from clip to clip."""
    torch.manual_seed(0)
    model = P3D(config).eval()
    torch.nn.init.normal_(model.fc.weight)
    prep = model.preprocessing
    model.preprocessing = replace(
        prep, num_frames=FRAMES, crop=SIZE, resize=SIZE, std=(64.0,) * len(prep.std)
    )
    return model


def outcome(case: Case, folder: Path) -> str:
    """Return the error of a file, or why it cannot be made."""
    suffix = next(suffix for suffix, kind in SUFFIXES.items() if kind == case.spec.backend)
    try:
        found = export_network(network(case.config), folder / f"network{suffix}", case.spec)
    except UserError as error:
        return str(error)
    return f"{found.worst:.1e}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the exports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=sorted(PARTS), required=True)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    set_up_cpu(1)
    if options.part != "depths":
        BLOCKS["p3d63"] = (1, 1, 1, 1)
    found: dict[str, str] = {}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for case in PARTS[options.part]():
            if options.only in case.name:
                found[case.name] = outcome(case, Path(folder))
                seconds = time.perf_counter() - started
                print(f"{seconds:6.0f} s  {case.name}: {found[case.name]}", flush=True)
    print(format_table(("network and form", "error"), list(found.items())))
    if options.out is not None:
        write_json(options.out, found)


if __name__ == "__main__":
    main()
