"""Test that CI, hooks, constraints, Makefile and citation agree with each other."""

from __future__ import annotations

import re
import shutil
import subprocess
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


def test_every_direct_dependency_is_pinned_and_nothing_else() -> None:
    project = read_pyproject()["project"]
    direct = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [line for line in lines if not line.startswith("#")]
    assert {*map(package_name, pinned)} == {*map(package_name, direct)} - {"p3d"}
    assert all("==" in line for line in pinned)


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
