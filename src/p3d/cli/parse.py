"""From the words after a subcommand to its options."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from p3d.cli import COMMANDS, Command, Expansion
from p3d.cli.help import help_page
from p3d.cli.options import Option, build, docstrings, options_of
from p3d.cli.values import kind_of
from p3d.cli.words import read_words, require
from p3d.errors import UserError
from p3d.run_folder import CONFIG_FILE

DEFAULT_RECIPE = "ucf101"


def parse_options(name: str, words: Sequence[str]) -> Any | None:
    """Return the options of a command; None after printing its help.

    Args:
        name: The command.
        words: The words after it.

    Raises:
        UserError: A word is wrong, or a required option is missing.
    """
    command, title = COMMANDS[name], f"p3d {name}"
    defaults = _defaults(command, _recipe_in(words))
    options = command_options(command, defaults)
    given = read_words(title, options, words, partial(_who_has, command))
    if given.keys() & {"--help", "--help-all"}:
        description = options_type(command).__doc__
        print(help_page(title, description, options, everything="--help-all" in given))
        return None
    given = _expand(command, title, options, given)
    require(title, options, given, [expansion.flag for expansion in command.expansions])
    values = {option.flag: option.default for option in options} | given
    return build(options_type(command), values, defaults)


def options_type(command: Command) -> Any:
    """Return the dataclass of a command's options."""
    return getattr(importlib.import_module(command.module), command.options)


def command_options(command: Command, defaults: Mapping[str, Any] | None = None) -> list[Option]:
    """Return all options of a command.

    Args:
        command: The command.
        defaults: Values of fields that replace their defaults; by default those of the recipe
            that is used if none is given.
    """
    defaults = _defaults(command) if defaults is None else defaults
    own = options_of(options_type(command), defaults)
    flags = {option.flag for option in own}
    path, switch = kind_of(Path), kind_of(bool)
    return [
        *([_recipe_option(defaults["recipe"])] if command.takes_recipe else ()),
        *(
            Option(expansion.flag, path, expansion.text, None, "options")
            for expansion in command.expansions
            if expansion.flag not in flags
        ),
        *own,
        Option("--help", switch, "Show the first options.", False, "help"),
        Option("--help-all", switch, "Show all options.", False, "help"),
    ]


def _recipe_in(words: Sequence[str]) -> str:
    """Return the recipe that a command line names, before its other words are read."""
    text = "\n".join(words)
    names = re.findall(r"(?m)^--recipe(?:=|\n)(.*)$", text)
    return names[-1] if names else DEFAULT_RECIPE


def _defaults(command: Command, recipe: str = DEFAULT_RECIPE) -> dict[str, Any]:
    """Return the values of fields that a recipe sets; another name is refused later."""
    if not command.takes_recipe:
        return {}
    from p3d.training.recipes import RECIPES

    return {"recipe": RECIPES.get(recipe, RECIPES[DEFAULT_RECIPE])}


def _who_has(command: Command, flag: str) -> str:
    """Say which recipes or which other commands have an option that a command lacks, or ""."""
    if hint := _recipe_hints(command).get(flag):
        return hint
    bare = f"--{flag.removeprefix('--no-')}"
    having = [
        f"p3d {name}"
        for name, other in COMMANDS.items()
        if any(
            option.flag == flag or (option.flag == bare and option.kind.is_switch)
            for option in command_options(other)
        )
    ]
    shown = having if len(having) < 5 else [*having[:3], f"{len(having) - 3} other commands"]
    *others, last = shown or [""]
    return f"{', '.join(others)} and {last} have it" if others else last and f"{last} has it"


def _recipe_hints(command: Command) -> dict[str, str]:
    """Return what to say about options that only some recipes have, by flag."""
    if not command.takes_recipe:
        return {}
    from p3d.system.options import option_flag
    from p3d.training.recipes import RECIPES

    own = {name: {field.name for field in fields(each)} for name, each in RECIPES.items()}
    shared = set.intersection(*own.values())
    return {
        option_flag(field): f"only --recipe {name} has it"
        for name, names in own.items()
        for field in sorted(names - shared)
    }


def _recipe_option(recipe: Any) -> Option:
    """Return the option that sets the defaults of the others, now to those of a recipe."""
    from p3d.training import recipes

    now = next(name for name, each in recipes.RECIPES.items() if each is recipe)
    texts = docstrings(ast.parse(inspect.getsource(recipes)).body)
    lines = [f"Defaults of the other options, here those of {now}."]
    for name in recipes.RECIPES:
        text = " ".join(texts.get(name.upper().replace("-", "_"), "").split())
        lines.append(f"{name}: {text.partition('. ')[0].rstrip('.')}.")
    kind = replace(kind_of(Literal[tuple(recipes.RECIPES)]), shape="NAME")
    return Option("--recipe", kind, "\n".join(lines), None, "options")


def _expand(
    command: Command, title: str, options: Sequence[Option], given: dict[str, Any]
) -> dict[str, Any]:
    """Return the given options, after those that some of them stand for."""
    sources = {e: given[e.flag] for e in command.expansions if e.flag in given}
    if not sources and command.resumes and given.get("--resume"):
        required = {option.flag for option in options if option.is_required}
        if not required <= given.keys():
            given.setdefault("--out", _default(options, "--out"))
            sources = {command.expansions[0]: _config_of(given["--out"])}
    for expansion, path in sources.items():
        if "--recipe" in given:
            flag = expansion.flag if expansion.flag in given else "--resume without --data"
            raise UserError(f"{path} contains a recipe; give {flag} or --recipe, not both")
        words = _words_of(expansion, path)
        try:
            given = read_words(title, options, words) | given
        except UserError as error:
            given_as = " ".join(map(str, path)) if isinstance(path, tuple) else path
            raise UserError(f"{expansion.flag} {given_as}: {error}") from error
    return given


def _words_of(expansion: Expansion, path: Path) -> list[str]:
    """Return the arguments that an option stands for."""
    module, _, function = expansion.function.partition(":")
    words: list[str] = getattr(importlib.import_module(module), function)(path)
    return words


def _default(options: Sequence[Option], flag: str) -> Any:
    return next(option.default for option in options if option.flag == flag)


def _config_of(out: Path) -> Path:
    """Return the file with the options of the run in a folder."""
    if not (out / CONFIG_FILE).is_file():
        raise UserError(
            f"{out}: holds no run to resume; give the folder of one (--out), or --data to start one"
        )
    return out / CONFIG_FILE
