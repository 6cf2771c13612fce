"""From the words after a subcommand to its options."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from p3d.cli import COMMANDS, Command
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
    options = command_options(command)
    given = read_words(title, options, words)
    if command.takes_recipe and "--recipe" in given:
        options = command_options(command, given["--recipe"])
    if given.keys() & {"--help", "--help-all"}:
        description = _options_type(command).__doc__
        print(help_page(title, description, options, everything="--help-all" in given))
        return None
    given = _expand(command, title, options, given)
    require(title, options, given)
    values = {option.flag: option.default for option in options} | given
    return build(_options_type(command), values)


def _options_type(command: Command) -> Any:
    return getattr(importlib.import_module(command.module), command.options)


def command_options(command: Command, recipe: str = DEFAULT_RECIPE) -> list[Option]:
    """Return all options of a command.

    Args:
        command: The command.
        recipe: Recipe that its defaults are from, if it takes one.
    """
    path, switch = kind_of(Path), kind_of(bool)
    special = [
        Option(expansion.flag, path, expansion.text, None, "options")
        for expansion in command.expansions
    ]
    defaults = {}
    if command.takes_recipe:
        from p3d.training.recipes import find_recipe

        special.insert(0, _recipe_option(recipe))
        defaults = {"recipe": find_recipe(recipe)}
    return [
        *special,
        *options_of(_options_type(command), defaults),
        Option("--help", switch, "Show the first options.", False, "help"),
        Option("--help-all", switch, "Show all options.", False, "help"),
    ]


def _recipe_option(recipe: str) -> Option:
    """Return the option that sets the defaults of the others."""
    from p3d.training import recipes

    texts = docstrings(ast.parse(inspect.getsource(recipes)).body)
    lines = [f"Defaults of the other options, here those of {recipe}."]
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
    if command.resumes and given.get("--resume") and not sources:
        required = {option.flag for option in options if option.is_required}
        if not required <= given.keys():
            out = given.setdefault("--out", _default(options, "--out"))
            sources = {command.expansions[0]: _config_of(out)}
    for expansion, path in sources.items():
        if "--recipe" in given:
            remedy = f"give {expansion.flag} or --recipe, not both"
            raise UserError(f"{expansion.flag} contains a recipe; {remedy}")
        module, _, function = expansion.function.partition(":")
        words = getattr(importlib.import_module(module), function)(path)
        try:
            given = read_words(title, options, words) | given
        except UserError as error:
            raise UserError(f"{expansion.flag} {path}: {error}") from error
    return given


def _default(options: Sequence[Option], flag: str) -> Any:
    return next(option.default for option in options if option.flag == flag)


def _config_of(out: Path) -> Path:
    if not (out / CONFIG_FILE).is_file():
        raise UserError(
            f"{out}: holds no run to resume; give the folder of one (--out), or --data to start one"
        )
    return out / CONFIG_FILE
