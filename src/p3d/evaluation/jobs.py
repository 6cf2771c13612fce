"""What `p3d eval` measures: networks with their data sets, read before the first is measured."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from p3d.data.dataset import VideoDataset
from p3d.data.layouts import read_dataset
from p3d.data.views import Views
from p3d.errors import UserError
from p3d.evaluation.motion import orders_of
from p3d.evaluation.options import EvalOptions
from p3d.evaluation.protocols import Protocol, choose_protocol
from p3d.evaluation.run_options import data_of_runs
from p3d.inference.exported import ExportedNetwork
from p3d.inference.networks import check_classes, chosen_backend, load_network
from p3d.model.network import P3D
from p3d.run_folder import BEST_FILE
from p3d.system.files import file_sha256
from p3d.weights.loading import find_weights


class Job(NamedTuple):
    """The evaluation of a network; `title` names it among several.

    The hash is taken when the network is read: a run that trains may replace its weights later.
    """

    title: str
    options: EvalOptions
    dataset: VideoDataset
    model: P3D | ExportedNetwork
    protocol: Protocol
    weights_sha256: str


def separate(options: EvalOptions) -> dict[str, EvalOptions]:
    """Return the options of each run, by a name for it.

    Raises:
        UserError: Several runs do not fit together, or one of them cannot be read.
    """
    if len(options.run) < 2:
        return {"": options}
    names = [folder.resolve().name for folder in options.run]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--run: two folders are called {name}; give each run once, and rename")
    if options.weights != options.run[0] / BEST_FILE:
        raise UserError(
            f"--weights {options.weights}: each of several runs has its own weights; drop --weights"
        )
    return {
        name: replace(
            options,
            data=data,
            weights=folder / BEST_FILE,
            run=(folder,),
            out=None if options.out is None else options.out / name,
        )
        for name, folder, data in zip(
            names, options.run, data_of_runs(options.run, options.data), strict=True
        )
    }


def read_job(title: str, options: EvalOptions) -> Job:
    """Read data set and network.

    Raises:
        UserError: One of them is not there, or they do not fit together.
    """
    run = options.run[0] if options.run else None
    if run is not None and not options.data.data.exists():
        raise UserError(
            f"--run {run}: the data {options.data.data} is not there; give --data with the "
            "place where it is now"
        )
    dataset = read_dataset(options.data, options.split)
    if not dataset.records:
        raise UserError(
            f"--split {options.split}: {options.data.data} has no {options.split} videos; give "
            f"another --split, or divide some off with --{options.split}-fraction"
        )
    if run is not None and options.weights == run / BEST_FILE and not options.weights.exists():
        raise UserError(
            f"--run {run}: has no {BEST_FILE} yet, which is written after an epoch; "
            "wait for it, or give --weights"
        )
    backend = chosen_backend(options.backend, compiled=options.compute.compile)
    model = load_network(options.weights, backend)
    digest = file_sha256(find_weights(options.weights))
    check_classes(model, dataset.class_names, options.weights)
    order = orders_of(options.frames)[-1]
    views = Views(crops=options.crops, mirror=options.mirror, order=order, seed=options.seed)
    protocol = choose_protocol(options.protocol, options.clips, views, model.preprocessing)
    model.preprocessing = protocol.prep
    return Job(title, options, dataset, model, protocol, digest)
