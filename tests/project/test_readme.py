"""Test the pages: both READMEs say the same, and everything that a page names exists.

A change to `README.md` needs the same change in `README.zh-CN.md`. Links, commands, options, files,
make targets and Python names are looked up in the project itself.
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
from p3d.system.files import write_json
from p3d.training.recipes import RECIPES

ROOT = Path(__file__).parents[2]
ENGLISH = ROOT / "README.md"
CHINESE = ROOT / "README.zh-CN.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PACKAGE = ROOT / "src" / "p3d"
PAGES = [
    *(ENGLISH, CHINESE, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"),
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("benchmarks/*.md")),
]
LANGUAGE_LINE = re.compile(r"^\[(?:English|简体中文)\]\((README[\w.-]*\.md)\).*$", re.MULTILINE)
FOREIGN_OPTIONS = {"--max_restarts", "--nnodes", "--num-gpus", "--privileged"}
"""Options in the text that belong to torchrun, Docker and Ray."""
FILE_SUFFIXES = {"csv", "html", "json", "jsonl", "md", "pt", "safetensors", "toml"}
"""Names that end in these are files that p3d writes or the project's own, not Python names."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


class Block(NamedTuple):
    """A fenced code block."""

    language: str
    lines: list[str]


class Section(NamedTuple):
    """A heading (level 0 for the text before the first one) and the text up to the next heading."""

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
    assert not inside, f"{page.name}: a code block is not closed"
    return found


def prose(page: Path) -> str:
    return "\n".join(line for section in sections(page) for line in section.prose)


def code_spans(text: str) -> list[str]:
    """Return the inline code, each on one line and without table escapes."""
    return [" ".join(span.split()).replace("\\|", "|") for span in re.findall(r"`([^`]+)`", text)]


def links(text: str) -> list[str]:
    return re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text))


def numbers(text: str) -> list[str]:
    return re.findall(r"\d+(?:[.,]\d+)*%?", text)


def without_comment(line: str) -> str:
    return re.sub(r"(?:^|\s+)#.*$", "", line)


def table_rows(section: Section) -> list[str]:
    return [line for line in section.prose if line.startswith("|")]


# Both READMEs


def assert_same(what: str, measure: Callable[[Section], object]) -> None:
    """Check that `measure` gives the same for each pair of sections of both READMEs."""
    for ours, theirs in zip(sections(ENGLISH), sections(CHINESE), strict=True):
        where = f"{what}: README.zh-CN.md, {theirs.title!r}; README.md, {ours.title!r}"
        assert measure(theirs) == measure(ours), where


def test_readmes_link_to_each_other() -> None:
    for page, other in ((ENGLISH, CHINESE), (CHINESE, ENGLISH)):
        top = "\n".join(page.read_text(encoding="utf-8").splitlines()[:5])
        assert LANGUAGE_LINE.findall(top) == [other.name], page.name


def test_headings_have_the_same_levels() -> None:
    levels = [[section.level for section in sections(page)] for page in (CHINESE, ENGLISH)]
    assert levels[0] == levels[1], "the headings of the READMEs differ"


def test_code_is_the_same_except_comments() -> None:
    def code(section: Section) -> list[tuple[str, list[str]]]:
        blocks = section.blocks
        return [(block.language, list(map(without_comment, block.lines))) for block in blocks]

    assert_same("code", code)


def test_links_are_the_same_in_the_same_order() -> None:
    assert links(prose(CHINESE)) == links(prose(ENGLISH)), "the links of the READMEs differ"


def test_tables_have_the_same_rows_and_numbers() -> None:
    assert_same("table", lambda section: [numbers(row) for row in table_rows(section)])


def test_lists_have_the_same_length() -> None:
    bullet = re.compile(r"\s*(?:[*+-]|\d+\.) ")
    assert_same("bullets", lambda section: sum(bool(bullet.match(line)) for line in section.prose))


def test_sections_have_the_same_numbers() -> None:
    """Compare numbers of two digits and more; smaller ones may be written as words."""

    def larger(section: Section) -> list[str]:
        lines = [*section.prose, *(line for block in section.blocks for line in block.lines)]
        return sorted(number for number in numbers("\n".join(lines)) if len(number) > 1)

    assert_same("numbers", larger)


def test_sections_have_the_same_inline_code() -> None:
    """Compare the inline code: options, files, recipes."""
    assert_same("inline code", lambda section: sorted(code_spans("\n".join(section.prose))))


# Names in all pages


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    titles = [section.title for section in sections(page)]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@each_page
def test_link_targets_exist(page: Path) -> None:
    for target in links(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), f"{page.name}: {target} does not exist"
        assert not anchor or anchor in anchors(there), f"{page.name}: {target}: no such heading"


@each_page
def test_named_files_exist(page: Path) -> None:
    text = re.sub(r"\]\([^)]*\)", "]", page.read_text(encoding="utf-8"))
    own = r"(?<![\w./-])(?:run_scripts|docker|docs|benchmarks|tests)/[\w./-]*"
    paths = [path.rstrip(".") for path in re.findall(own, text)]
    paths += [f"run_scripts/{name}" for name in re.findall(r"(?<![\w./-])P3D_\w+\.sh", text)]
    for path in paths:
        assert (ROOT / path).exists(), f"{page.name}: {path} does not exist"


def shell_commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command in `sh` blocks and in blocks indented by four spaces."""
    for section in sections(page):
        shell = [block.lines for block in section.blocks if block.language == "sh"]
        indented = [line for line in section.prose if line.startswith("    ")]
        text = "\n".join(line for lines in [*shell, indented] for line in lines)
        for line in text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def p3d_commands(page: Path) -> list[list[str]]:
    """Return what follows `p3d` in each command that calls it, also through torchrun."""
    return [words[words.index("p3d") + 1 :] for words in shell_commands(page) if "p3d" in words]


def mentioned_commands(page: Path) -> list[list[str]]:
    """Return the same for inline code, where a command may be incomplete."""
    return [span.split()[1:] for span in code_spans(prose(page)) if span.startswith("p3d ")]


def command_name(words: list[str]) -> str:
    """Return the subcommand that the command line would run, or ""."""
    return next((name for n in (2, 1) if (name := " ".join(words[:n])) in COMMANDS), "")


@cache
def flags_of(name: str) -> frozenset[str]:
    """Return the options in a subcommand's help, with any recipe."""
    text = io.StringIO()
    recipes = [["--recipe", recipe] for recipe in RECIPES] if COMMANDS[name].takes_recipe else [[]]
    with redirect_stdout(text):
        for recipe in recipes:
            assert main([*name.split(), *recipe, "--help-all"]) == 0
    listed = re.findall(r"(?m)^[^\w\n-]{0,4}((?:-h, )?--[a-z].*)", text.getvalue())
    flags = {flag for line in listed for flag in re.findall(r"--[a-z][\w-]*", line)}
    assert "--help" in flags, text.getvalue()
    return frozenset(flags | {"--help-all"})


def flags_in(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if re.match("--[a-z]", word)}


@each_page
def test_commands_parse(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse every complete command of a page, without running it."""
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "a", "b", "c"):  # runs whose options some commands read
        run = Path("runs") / name
        run.mkdir(parents=True)
        write_json(run / "config.json", {"data": {"data": "videos"}, "recipe": {"epochs": 3}})
    for words in p3d_commands(page):
        if "..." in words:
            continue
        name = command_name(words)
        assert name, f"{page.name}: no command p3d {' '.join(words)}"
        module = importlib.import_module(COMMANDS[name].module)
        monkeypatch.setattr(module, "run", lambda options: 0)  # noqa: ARG005
        assert main(words) == 0, f"{page.name}: p3d {' '.join(words)}"


@each_page
def test_named_options_belong_to_their_commands(page: Path) -> None:
    families = [[name.split()[0]] for name in COMMANDS if " " in name]
    for words in [*p3d_commands(page), *mentioned_commands(page)]:
        name = command_name(words)
        assert name or words in families, f"{page.name}: no command p3d {' '.join(words)}"
        unknown = flags_in(words) - flags_of(name) if name else ()
        assert not unknown, f"{page.name}: p3d {name} has no {', '.join(unknown)}"


@each_page
def test_options_in_the_text_exist(page: Path) -> None:
    """Check that an option without a command, such as `--plan`, belongs to some command."""
    named = [span.split() for span in code_spans(prose(page)) if span.startswith("--")]
    known = FOREIGN_OPTIONS.union(*map(flags_of, COMMANDS))
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
def test_names_in_python_code_exist(page: Path) -> None:
    """Parse Python blocks, and look up what they use of p3d."""
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


# The architecture page


def dotted_names(page: Path) -> list[str]:
    """Return the inline code that looks like `module.name`, without file names."""
    spans = [span for span in code_spans(prose(page)) if re.fullmatch(r"[A-Za-z]\w*(\.\w+)+", span)]
    return [span for span in spans if span.rpartition(".")[2] not in {*FILE_SUFFIXES, "py"}]


def resolves(name: str) -> bool:
    """Whether a dotted name can be imported, either from p3d or from the top."""
    parts = name.split(".")
    for root in ([], ["p3d"]):
        for length in range(len(parts), 0, -1):
            try:
                target: object = importlib.import_module(".".join([*root, *parts[:length]]))
            except ModuleNotFoundError:
                continue
            for part in parts[length:]:
                target = getattr(target, part, None)
            if target is not None:
                return True
            break
    return False


def test_dotted_names_are_looked_up() -> None:
    assert resolves("video.decode.open_video")
    assert resolves("data.sampler.StepSampler.steps_per_epoch")
    assert resolves("p3d.create_model")
    assert resolves("torch.compile")
    assert not resolves("video.decode.absent")
    assert not resolves("video.absent.open_video")
    assert not resolves("video.decode.open_video.absent")


def test_names_in_the_architecture_exist() -> None:
    names = dotted_names(ARCHITECTURE)
    assert len(names) > 50
    for name in names:
        assert resolves(name), f"architecture.md: {name} does not exist"


def test_paths_in_the_architecture_exist() -> None:
    spans = code_spans(prose(ARCHITECTURE))
    paths = [span for span in spans if re.fullmatch(r"[\w.-]+(/[\w.-]*)+|\w+\.(py|toml)", span)]
    assert len(paths) > 10
    for path in paths:
        found = (PACKAGE / path).exists() or (ROOT / path).exists()
        assert found, f"architecture.md: {path} does not exist"


def test_the_map_has_every_room_in_the_order_of_the_contract() -> None:
    sections_by_title = {section.title: section for section in sections(ARCHITECTURE)}
    rows = table_rows(sections_by_title["Map"])[2:]
    shown = [code_spans(row)[0].rstrip("/").removesuffix(".py") for row in rows]
    contract = re.search(r"(?s)\nlayers = \[(.*?)\]", (ROOT / "pyproject.toml").read_text())
    assert contract is not None
    layers = [set(layer.split(" | ")) for layer in re.findall(r'"([^"]+)"', contract[1])]
    positions = [next(at for at, layer in enumerate(layers) if room in layer) for room in shown]
    assert positions == sorted(positions)
    assert {*shown, "__main__"} == set[str]().union(*layers)
