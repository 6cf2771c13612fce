"""The pages: the README says the same in both languages, and what any page names is there.

Who changes `README.md` changes `README.zh-CN.md` too. Links, commands, options, files and make
targets in the pages are looked up in the project itself.
"""

from __future__ import annotations

import ast
import importlib
import io
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from p3d.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]
ENGLISH = ROOT / "README.md"
CHINESE = ROOT / "README.zh-CN.md"
PAGES = [
    *(ENGLISH, CHINESE, ROOT / "CONTRIBUTING.md"),
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("benchmarks/*.md")),
]
LANGUAGE_LINE = re.compile(r"^\[(?:English|简体中文)\]\((README[\w.-]*\.md)\).*$", re.MULTILINE)
OTHERS_FLAGS = {"--max_restarts", "--nnodes", "--privileged"}
"""Options in the prose that are torchrun's and Docker's."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


class Block(NamedTuple):
    """A fenced block of code."""

    language: str
    lines: list[str]


class Section(NamedTuple):
    """A heading (none in the first section), and what follows it up to the next one."""

    level: int
    title: str
    prose: list[str]
    blocks: list[Block]


def sections(page: Path) -> list[Section]:
    found = [Section(0, "", [], [])]
    inside = False
    for line in LANGUAGE_LINE.sub("", page.read_text(encoding="utf-8")).splitlines():
        if line.startswith("```"):
            inside = not inside
            if inside:
                found[-1].blocks.append(Block(line[3:].strip(), []))
        elif inside:
            found[-1].blocks[-1].lines.append(line)
        elif heading := re.match(r"(#+) +(.*)", line):
            found.append(Section(len(heading[1]), heading[2].strip(), [], []))
        else:
            found[-1].prose.append(line)
    assert not inside, f"{page.name}: a fence is not closed"
    return found


def prose(page: Path) -> str:
    return "\n".join(line for section in sections(page) for line in section.prose)


def code_spans(text: str) -> list[str]:
    """Inline code, on one line each, without the escapes of tables."""
    return [" ".join(span.split()).replace("\\|", "|") for span in re.findall(r"`([^`]+)`", text)]


def links(text: str) -> list[str]:
    return re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text))


def numbers(text: str) -> list[str]:
    return re.findall(r"\d+(?:[.,]\d+)*%?", text)


def without_comment(line: str) -> str:
    return re.sub(r"(?:^|\s+)#.*$", "", line)


def table_rows(section: Section) -> list[str]:
    return [line for line in section.prose if line.startswith("|")]


# The README in two languages


def assert_same(what: str, measure: Callable[[Section], object]) -> None:
    """What is measured is the same in every section of both READMEs."""
    for ours, theirs in zip(sections(ENGLISH), sections(CHINESE), strict=True):
        where = f"{what}: README.zh-CN.md, {theirs.title!r}; README.md, {ours.title!r}"
        assert measure(theirs) == measure(ours), where


def test_each_readme_leads_to_the_other() -> None:
    for page, other in ((ENGLISH, CHINESE), (CHINESE, ENGLISH)):
        top = "\n".join(page.read_text(encoding="utf-8").splitlines()[:5])
        assert LANGUAGE_LINE.findall(top) == [other.name], page.name


def test_headings_are_at_the_same_levels() -> None:
    levels = [[section.level for section in sections(page)] for page in (CHINESE, ENGLISH)]
    assert levels[0] == levels[1], "the headings of the READMEs differ"


def test_code_is_the_same_but_for_comments() -> None:
    def code(section: Section) -> list[tuple[str, list[str]]]:
        blocks = section.blocks
        return [(block.language, list(map(without_comment, block.lines))) for block in blocks]

    assert_same("code", code)


def test_links_are_the_same_in_the_same_order() -> None:
    assert links(prose(CHINESE)) == links(prose(ENGLISH)), "the links of the READMEs differ"


def test_tables_have_the_same_rows_and_numbers() -> None:
    assert_same("table", lambda section: [numbers(row) for row in table_rows(section)])


def test_lists_are_equally_long() -> None:
    bullet = re.compile(r"\s*(?:[*+-]|\d+\.) ")
    assert_same("bullets", lambda section: sum(bool(bullet.match(line)) for line in section.prose))


def test_sections_have_the_same_numbers() -> None:
    """Those of two digits and more: smaller ones may be words."""

    def larger(section: Section) -> list[str]:
        lines = [*section.prose, *(line for block in section.blocks for line in block.lines)]
        return sorted(number for number in numbers("\n".join(lines)) if len(number) > 1)

    assert_same("numbers", larger)


def test_sections_name_the_same_things() -> None:
    """What is set as code in the text: options, files, recipes."""
    assert_same("inline code", lambda section: sorted(code_spans("\n".join(section.prose))))


# What the pages name


def anchors(page: Path) -> set[str]:
    """The names under which GitHub lets a link reach the page's headings."""
    titles = [section.title for section in sections(page)]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), f"{page.name}: {target} is not there"
        assert not anchor or anchor in anchors(there), f"{page.name}: {target}: no such heading"


@each_page
def test_files_of_the_project_that_are_named_exist(page: Path) -> None:
    text = re.sub(r"\]\([^)]*\)", "]", page.read_text(encoding="utf-8"))
    own = r"(?<![\w./-])(?:run_scripts|docker|docs|benchmarks|tests)/[\w./-]*"
    paths = [path.rstrip(".") for path in re.findall(own, text)]
    paths += [f"run_scripts/{name}" for name in re.findall(r"(?<![\w./-])P3D_\w+\.sh", text)]
    for path in paths:
        assert (ROOT / path).exists(), f"{page.name}: {path} is not there"


def shell_commands(page: Path) -> Iterator[list[str]]:
    """The words of each command in fenced `sh` blocks and in blocks set in by four spaces."""
    for section in sections(page):
        shell = [block.lines for block in section.blocks if block.language == "sh"]
        indented = [line for line in section.prose if line.startswith("    ")]
        text = "\n".join(line for lines in [*shell, indented] for line in lines)
        for line in text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def p3d_commands(page: Path) -> list[list[str]]:
    """What follows `p3d` in the commands that call it, by torchrun and the like too."""
    return [words[words.index("p3d") + 1 :] for words in shell_commands(page) if "p3d" in words]


def mentioned_commands(page: Path) -> list[list[str]]:
    """The same for inline code, where a command need not be complete."""
    return [span.split()[1:] for span in code_spans(prose(page)) if span.startswith("p3d ")]


def command_name(words: list[str]) -> str:
    """The subcommand that is called: the one with most words, as the command line finds it."""
    return next((name for n in (2, 1) if (name := " ".join(words[:n])) in COMMANDS), "")


@cache
def flags_of(name: str) -> frozenset[str]:
    """The options that a subcommand's help lists."""
    text = io.StringIO()
    with redirect_stdout(text), pytest.raises(SystemExit):
        main([*name.split(), "--help"])
    listed = re.findall(r"(?m)^[^\w\n-]{0,4}((?:-h, )?--[a-z].*)", text.getvalue())
    flags = {flag for line in listed for flag in re.findall(r"--[a-z][\w-]*", line)}
    assert "--help" in flags, text.getvalue()
    return frozenset(flags | {"--recipe"} if name in ("train", "bench train") else flags)


def flags_in(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if re.match("--[a-z]", word)}


@each_page
def test_commands_are_understood(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line reads every whole command of a page; nothing is run."""
    for words in p3d_commands(page):
        if "..." in words:
            continue
        name = command_name(words)
        assert name, f"{page.name}: no command p3d {' '.join(words)}"
        module = importlib.import_module(COMMANDS[name].module)
        monkeypatch.setattr(module, "run", lambda options: 0)  # noqa: ARG005
        try:
            code = main(words)
        except SystemExit as stop:
            code = int(stop.code or 0)
        assert code == 0, f"{page.name}: p3d {' '.join(words)}"


@each_page
def test_commands_have_the_options_that_are_named(page: Path) -> None:
    families = [[name.split()[0]] for name in COMMANDS if " " in name]
    for words in [*p3d_commands(page), *mentioned_commands(page)]:
        name = command_name(words)
        assert name or words in families, f"{page.name}: no command p3d {' '.join(words)}"
        unknown = flags_in(words) - flags_of(name) if name else ()
        assert not unknown, f"{page.name}: p3d {name} has no {', '.join(unknown)}"


@each_page
def test_options_in_the_text_exist(page: Path) -> None:
    """Options that stand by themselves, such as `--plan`, are some command's."""
    named = [span.split() for span in code_spans(prose(page)) if span.startswith("--")]
    known = OTHERS_FLAGS.union(*map(flags_of, COMMANDS))
    for words in named:
        assert flags_in(words) <= known, f"{page.name}: no command has {' '.join(words)}"


@each_page
def test_make_targets_exist(page: Path) -> None:
    targets = re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text())
    commands = [*shell_commands(page), *map(str.split, code_spans(prose(page)))]
    for words in commands:
        if words[0] == "make" and len(words) > 1:
            assert words[1] in targets, f"{page.name}: make {words[1]}"


@each_page
def test_python_names_exist(page: Path) -> None:
    """Python blocks parse, and what they take from p3d is there."""
    blocks = [block for section in sections(page) for block in section.blocks]
    for block in blocks:
        if block.language != "python":
            continue
        for node in ast.walk(ast.parse("\n".join(block.lines))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("p3d"):
                module = importlib.import_module(node.module or "")
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "p3d":
                module, names = importlib.import_module("p3d"), [node.attr]
            else:
                continue
            for name in names:
                assert hasattr(module, name), f"{page.name}: {module.__name__} has no {name}"
