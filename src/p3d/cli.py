"""The command `p3d`: finds the subcommand, reads its options, and turns mistakes into one line.

The only reader of argv. A subcommand's module is imported when it is called, so that `p3d --help`
answers at once.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from p3d import __version__
from p3d.errors import UserError


class Command(NamedTuple):
    """Where a subcommand's options and its function `run(options)` are."""

    summary: str
    module: str
    options: str


COMMANDS = {
    "prepare sample": Command(
        "write a small synthetic set of eight motions", "p3d.prepare.sample", "SampleOptions"
    ),
    "prepare ucf101": Command(
        "lay out UCF101 from its archive or a folder", "p3d.prepare.ucf101", "Ucf101Options"
    ),
    "prepare manifest": Command(
        "list HMDB51, Kinetics or any other set in a manifest",
        "p3d.prepare.manifest",
        "ManifestOptions",
    ),
    "prepare check": Command(
        "look a data set over before training", "p3d.prepare.check", "CheckOptions"
    ),
    "prepare frames": Command(
        "turn videos into folders of JPEG frames", "p3d.prepare.frames", "FramesOptions"
    ),
    "prepare flow": Command(
        "compute the optical flow of videos", "p3d.prepare.flow", "FlowOptions"
    ),
    "train": Command("train a network", "p3d.training.train", "TrainOptions"),
    "eval": Command(
        "measure a network on a list of videos", "p3d.evaluation.evaluate", "EvalOptions"
    ),
    "report": Command("write a page about a training run", "p3d.report.page", "ReportOptions"),
    "predict": Command("name the classes of videos", "p3d.inference.predictor", "PredictOptions"),
    "convert": Command("turn any weight file into ours", "p3d.weights.convert", "ConvertOptions"),
    "info": Command("describe a network or a weight file", "p3d.weights.info", "InfoOptions"),
    "bench model": Command(
        "time the network on this machine", "p3d.bench.model", "ModelBenchOptions"
    ),
    "bench train": Command(
        "time training steps on made-up clips", "p3d.bench.train", "TrainBenchOptions"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `p3d` with these arguments (the process's own by default); returns the exit code.

    0: done; 2: the input is at fault, said in one line; 128 + n: stopped by signal n.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        name, rest = _find_command(arguments)
        return _call(name, rest) if name else 0
    except UserError as error:
        print(f"p3d: error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        # Loading processes are forked by the command: if one died, its module is there.
        workers = sys.modules.get("p3d.data.workers")
        told = workers.explain_death(error) if workers else None
        if told is None:
            raise
        print(f"p3d: error: {told}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("p3d: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output is gone; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _find_command(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The subcommand's full name and what follows it; None where help or version was asked for.

    Raises:
        UserError: There is no such subcommand.
    """
    if arguments[:1] in (["--version"], ["-V"]):
        print(f"p3d {__version__}")
        return None, []
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return name, arguments[words:]
    family = arguments[:1] if any(key.split()[:1] == arguments[:1] for key in COMMANDS) else []
    asked = arguments[len(family) :]
    if not asked or asked[0] in ("--help", "-h"):
        print(_overview(*family))
        return None, []
    names = [key for key in COMMANDS if key.split()[:1] == family] or list(COMMANDS)
    unknown = " ".join([*family, asked[0]])
    raise UserError(f"there is no command {unknown!r}; choose one of: {', '.join(names)}")


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
            "Each explains itself: p3d COMMAND --help",
        ]
    )


def _call(name: str, arguments: list[str]) -> int:
    import tyro

    command = COMMANDS[name]
    module = importlib.import_module(command.module)
    options_type = getattr(module, command.options)
    settings: dict[str, Any] = {}
    description = options_type.__doc__.splitlines()[0]
    if name in ("train", "bench train"):
        recipe, arguments = _take_recipe(arguments)
        settings["default"] = _with_recipe(options_type, recipe)
        description += f" Recipes: --recipe {{{','.join(_recipe_names())}}}, now {recipe}."
    options = tyro.cli(
        options_type,
        prog=f"p3d {name}",
        description=description,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
        **settings,
    )
    return module.run(options) or 0


def _recipe_names() -> list[str]:
    from p3d.training.recipes import RECIPES

    return list(RECIPES)


def _take_recipe(arguments: list[str]) -> tuple[str, list[str]]:
    """Split `--recipe NAME` off, since it decides the defaults of all other options."""
    name, rest = "ucf101", []
    words = iter(arguments)
    for word in words:
        if word == "--recipe":
            name = next(words, "")
        elif word.startswith("--recipe="):
            name = word.removeprefix("--recipe=")
        else:
            rest.append(word)
    return name, rest


def _with_recipe(options_type: Any, recipe: str) -> Any:
    """Options that have their defaults, with a recipe's values in place."""
    import tyro

    from p3d.data.layouts import DataOptions
    from p3d.training.recipes import find_recipe

    needed = {}
    if any(item.name == "data" for item in fields(options_type)):
        needed["data"] = DataOptions(data=tyro.MISSING)
    return options_type(recipe=find_recipe(recipe), **needed)


if __name__ == "__main__":
    sys.exit(main())
