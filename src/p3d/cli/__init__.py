"""The command `p3d`: find the subcommand, parse its options, report errors in one line.

Only this module reads `sys.argv`. The module of a subcommand is imported when it is called, and the
parser with it, so that `p3d --help` is fast.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import NamedTuple

from p3d import __version__
from p3d.errors import UserError, printable
from p3d.system.resources import explain_limit, wait_briefly
from p3d.system.signals import Terminated, cleaning_up_on_sigterm


class Expansion(NamedTuple):
    """An option that stands for others; those on the command line override them.

    Attributes:
        flag: Its name.
        function: "module:function" that maps its path to the list of arguments it stands for.
        text: Its help.
    """

    flag: str
    function: str
    text: str


class Command(NamedTuple):
    """A subcommand: its summary, and the module with its options and `run(options)`.

    Attributes:
        summary: One line for the overview.
        module: Full name of the module.
        options: Name of the dataclass of its options in that module.
        takes_recipe: Whether `--recipe` chooses the defaults of its options.
        expansions: Its options that stand for others.
        resumes: Whether `--resume` without a required option reads the options of the run in --out.
    """

    summary: str
    module: str
    options: str
    takes_recipe: bool = False
    expansions: tuple[Expansion, ...] = ()
    resumes: bool = False


COMMANDS = {
    "prepare sample": Command(
        "write a small synthetic data set of eight motions", "p3d.prepare.sample", "SampleOptions"
    ),
    "prepare ucf101": Command(
        "prepare UCF101 from its archive or a folder", "p3d.prepare.ucf101", "Ucf101Options"
    ),
    "prepare manifest": Command(
        "write a manifest of HMDB51, Kinetics or any other set",
        "p3d.prepare.manifest",
        "ManifestOptions",
    ),
    "prepare check": Command(
        "check a data set before training", "p3d.prepare.check", "CheckOptions"
    ),
    "prepare frames": Command(
        "convert videos to folders of JPEG frames", "p3d.prepare.frames", "FramesOptions"
    ),
    "prepare flow": Command(
        "compute the optical flow of videos", "p3d.prepare.flow", "FlowOptions"
    ),
    "train": Command(
        "train a network",
        "p3d.training.train",
        "TrainOptions",
        takes_recipe=True,
        expansions=(
            Expansion(
                "--config",
                "p3d.training.options:config_arguments",
                "Use the options of an earlier run, from its config.json.",
            ),
        ),
        resumes=True,
    ),
    "eval": Command(
        "measure the accuracy of a network",
        "p3d.evaluation.evaluate",
        "EvalOptions",
        expansions=(
            Expansion(
                "--run",
                "p3d.evaluation.run_options:run_arguments",
                "Use the data, the split rule and the weights of a training run.",
            ),
        ),
    ),
    "explain": Command(
        "show where and when a network looks for a class",
        "p3d.evaluation.explain",
        "ExplainOptions",
    ),
    "metrics": Command(
        "compute every figure of an evaluation from its scores",
        "p3d.evaluation.metrics",
        "MetricsOptions",
    ),
    "audit": Command(
        "find wrong labels, duplicates and inseparable classes",
        "p3d.evaluation.audit",
        "AuditOptions",
    ),
    "detection": Command(
        "measure segments of videos against the true ones",
        "p3d.evaluation.detection",
        "DetectionOptions",
    ),
    "calibrate": Command(
        "fit probabilities, or how timelines are cut, to validation videos",
        "p3d.evaluation.calibrate",
        "CalibrateOptions",
    ),
    "compare": Command(
        "compare networks on the same videos", "p3d.evaluation.compare", "CompareOptions"
    ),
    "fuse": Command("average the scores of two networks", "p3d.evaluation.fuse", "FuseOptions"),
    "features": Command(
        "compute features of videos for other classifiers",
        "p3d.inference.features",
        "FeaturesOptions",
    ),
    "probe": Command(
        "measure a linear classifier on features", "p3d.evaluation.probe", "ProbeOptions"
    ),
    "folds": Command(
        "train and measure once for each fold of a data set",
        "p3d.evaluation.folds",
        "FoldsOptions",
        takes_recipe=True,
    ),
    "report": Command(
        "write a page about a training run or an evaluation", "p3d.report.page", "ReportOptions"
    ),
    "predict": Command("predict the classes of videos", "p3d.inference.predict", "PredictOptions"),
    "score": Command(
        "score an archive of videos, each once", "p3d.inference.score", "ScoreOptions"
    ),
    "serve": Command(
        "predict the classes of videos over HTTP, with a page", "p3d.serve.command", "ServeOptions"
    ),
    "timeline": Command(
        "find when something happens in long videos and live streams",
        "p3d.inference.timeline.command",
        "TimelineOptions",
    ),
    "convert": Command(
        "convert a weight file to safetensors", "p3d.weights.convert", "ConvertOptions"
    ),
    "export": Command(
        "export a network to ONNX, OpenVINO or compiled code",
        "p3d.inference.export_command",
        "ExportOptions",
    ),
    "info": Command("describe a network or a weight file", "p3d.weights.info", "InfoOptions"),
    "bench model": Command(
        "time the network on this machine", "p3d.bench.model", "ModelBenchOptions"
    ),
    "bench train": Command(
        "time training steps on random clips",
        "p3d.bench.train",
        "TrainBenchOptions",
        takes_recipe=True,
    ),
    "completion": Command(
        "print a script that completes commands in a shell",
        "p3d.cli.completion",
        "CompletionOptions",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `p3d` with these arguments (by default `sys.argv`) and return the exit code.

    The code is 0 on success, 2 for an error in the input, and 128 + n if signal n stopped it.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's is not
            stream.reconfigure(errors="backslashreplace")  # for names that it cannot encode
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    wait_briefly()
    try:
        with cleaning_up_on_sigterm():
            return _run(arguments)
    except UserError as error:
        return _report(error)
    except RuntimeError as error:
        # If a worker process of a loader died, its module has been imported.
        workers = sys.modules.get("p3d.data.workers")
        explained = workers.explain_death(error) if workers else None
        return _report_limit(error) if explained is None else _report(explained)
    except KeyboardInterrupt as stop:
        print("p3d: interrupted", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)
    except BrokenPipeError:
        # The reader of stdout has exited; keep Python from flushing to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (OSError, MemoryError) as error:
        return _report_limit(error)


def _run(arguments: list[str]) -> int:
    """Run the subcommand that the arguments name, and return its exit code."""
    name, rest = _find_command(arguments)
    if name is None:
        return 0
    from p3d.cli.parse import parse_options

    options = parse_options(name, rest)
    if options is None:
        return 0
    return importlib.import_module(COMMANDS[name].module).run(options) or 0


def _report(message: object) -> int:
    """Print an error on one line and return the exit code."""
    print(f"p3d: error: {printable(message)}", file=sys.stderr)
    return 2


def _report_limit(error: OSError | RuntimeError | MemoryError) -> int:
    """Report an error that a limit of the machine caused; raise any other again."""
    message = explain_limit(error)
    if message is None:
        raise error
    return _report(message)


def _find_command(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Return the subcommand's name and its arguments; None after printing help or the version.

    Raises:
        UserError: There is no such subcommand.
    """
    if arguments[:1] in (["--version"], ["-v"], ["-V"]):
        print(f"p3d {__version__}")
        return None, []
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return name, arguments[words:]
    family = arguments[:1] if any(key.split()[:1] == arguments[:1] for key in COMMANDS) else []
    rest = arguments[len(family) :]
    if not rest or rest[0] in ("--help", "-h", "--help-all"):
        print(_overview(*family))
        return None, []
    raise UserError(_unknown(" ".join([*family, rest[0]]), family))


def _unknown(name: str, family: list[str]) -> str:
    """Return the message about a command that does not exist."""
    from p3d.cli.suggest import closest

    names = [key for key in COMMANDS if key.split()[:1] == family] or list(COMMANDS)
    if name.startswith("-"):
        if meant := closest(name, ("--version", "--help", "--help-all")):
            return f"there is no option {name}; did you mean p3d {meant}?"
        return f"the command comes before {name}; choose one of: {', '.join(names)}"
    if meant := closest(name, names):
        return f"there is no command {name!r}; did you mean p3d {meant}?"
    return f"there is no command {name!r}; choose one of: {', '.join(names)}"


def _overview(family: str = "") -> str:
    shown = {name: command for name, command in COMMANDS.items() if name.startswith(family)}
    width = max(map(len, shown))
    lines = [f"  {name.ljust(width)}  {command.summary}" for name, command in shown.items()]
    return "\n".join(
        [
            f"usage: p3d {family or 'COMMAND'} ...",
            "",
            "Pseudo-3D residual networks for video action recognition.",
            "",
            *lines,
            "",
            "p3d help COMMAND, or p3d COMMAND --help, shows the options of a command.",
            *([] if family else ["p3d --version prints the version."]),
        ]
    )
