"""Test that CI, hooks, constraints, Makefile and citation agree with each other."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def read_yaml(path: str) -> Any:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def read_pyproject() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def package_name(requirement: str) -> str:
    """Return the normalized package name of `name[extra]>=1; marker`."""
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


def read_constraints() -> tuple[list[str], list[str]]:
    """Return the pins of direct dependencies, and those of what they require."""
    text = (ROOT / "constraints.txt").read_text()
    parts = text.split("\n# What these require")
    return tuple([line for line in part.splitlines() if "==" in line] for part in parts)  # type: ignore[return-value]


def test_every_direct_dependency_is_pinned() -> None:
    project = read_pyproject()["project"]
    direct = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    assert {*map(package_name, read_constraints()[0])} == {*map(package_name, direct)} - {"p3d"}


def test_everything_that_the_dependencies_require_is_pinned() -> None:
    requirements = pytest.importorskip("packaging.requirements")
    direct, others = read_constraints()
    versions = dict(re.split("==|;", line)[:2] for line in [*direct, *others])
    for name, version in versions.items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            pytest.skip(f"{name} is not installed")
        if installed.partition("+")[0] != version or sys.version_info[:2] != (3, 11):
            pytest.skip("other versions are installed than those in constraints.txt")
    found, queue = set[str](), [(package_name(line), "") for line in direct]
    while queue:
        name, extra = queue.pop()
        found.add(name)
        for line in metadata.requires(name) or ():
            requirement = requirements.Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                other = package_name(requirement.name)
                wanted = [(other, option) for option in {"", *requirement.extras}]
                queue += [item for item in wanted if item[0] not in found or item[1]]
    assert found - {"setuptools"} == {*map(package_name, versions)}


def test_the_cambricon_image_cuts_the_constraints_at_their_heading() -> None:
    command = (ROOT / "docker" / "Dockerfile.mlu").read_text()
    assert "sed '/^# What these require/,$d' constraints.txt" in command
    assert "sympy" in "".join(read_constraints()[1])


def test_only_the_extra_requires_protobuf() -> None:
    project = read_pyproject()["project"]
    assert "protobuf" not in map(package_name, project["dependencies"])
    assert [*map(package_name, project["optional-dependencies"]["caffe"])] == ["protobuf"]


def test_ci_runs_on_every_supported_python() -> None:
    jobs = read_yaml(".github/workflows/ci.yml")["jobs"]
    versions = jobs["test"]["strategy"]["matrix"]["python"]
    assert read_pyproject()["project"]["requires-python"] == f">={versions[0]}"
    assert versions == ["3.10", "3.11", "3.12", "3.13"]
    assert jobs["test"]["steps"][-1]["run"] == "bash .ci/run"


@pytest.mark.parametrize("job", ["lowest", "newest"])
def test_ci_tests_the_ends_of_the_version_ranges(job: str) -> None:
    steps = read_yaml(".github/workflows/ci.yml")["jobs"][job]["steps"]
    python = next(s["with"]["python-version"] for s in steps if "setup-python" in s.get("uses", ""))
    commands = "\n".join(step.get("run", "") for step in steps)
    resolution = {"lowest": "lowest-direct", "newest": "highest"}[job]
    assert f"--resolution {resolution} --python-version {python} -o {job}.txt" in commands
    assert commands.endswith(f"make unit CONSTRAINTS={job}.txt")


def test_make_uses_the_given_constraints(tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    constraints = tmp_path / "other.txt"
    constraints.touch()
    done = subprocess.run(
        ["make", "-n", "unit", f"VENV={tmp_path}/venv", f"CONSTRAINTS={constraints}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"--constraint {constraints} " in done.stdout
    assert f"{tmp_path}/venv/bin/python -m pytest" in done.stdout


def test_hooks_run_the_tools_of_make_in_the_virtual_environment() -> None:
    repos = read_yaml(".pre-commit-config.yaml")["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]
    hooks = repos[0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    makefile = (ROOT / "Makefile").read_text()
    for hook in hooks:
        command = " ".join(hook["entry"].split()[:2]).removesuffix(" --force-exclude")
        assert command.startswith(".venv/bin/")
        assert command.replace(".venv", "$(VENV)") in makefile


def test_citation_names_the_paper_of_the_readme() -> None:
    citation = read_yaml("CITATION.cff")
    paper = citation["preferred-citation"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"title={{{paper['title']}}}" in readme
    names = [f"{person['family-names']}, {person['given-names']}" for person in paper["authors"]]
    assert f"author={{{' and '.join(names)}}}" in readme
    assert f"year={{{paper['year']}}}" in readme
    assert f"({paper['url']})" in readme
    assert citation["license"] == read_pyproject()["project"]["license"]
