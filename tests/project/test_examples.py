"""The example notebook runs from its first cell to its last, on a small scale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import p3d
from p3d.run_folder import BEST_FILE

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"
TINY = (
    "--batch-size 8 --max-steps 2 --num-frames 4 --frame-stride 1 --resize 20 --crop 16 "
    "--device cpu --workers 0 --validation-clips 1"
)


def read_cells() -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return cells


def test_the_notebook_is_stored_without_output() -> None:
    for cell in read_cells():
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


def test_the_notebook_runs(
    sample: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)  # for what is written outside the given folders
    run = tmp_path / "run"
    names: dict[str, Any] = {}
    for number, cell in enumerate(read_cells(), start=1):
        if cell["cell_type"] == "code":
            code = compile("".join(cell["source"]), f"{NOTEBOOK.name}, cell {number}", "exec")
            exec(code, names)
        if "parameters" in cell["metadata"].get("tags", []):
            names |= {"DATA": sample, "RUN": run, "OPTIONS": TINY.split()}
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert (run / BEST_FILE).is_file()
    assert (run / "test" / "metrics.json").is_file()
    assert "8 test videos of MoveApart, MoveDown" in capsys.readouterr().out
    assert names["features"].shape == (8, 2048)
    with torch.inference_mode():
        logits = p3d.load_model(run).fc(names["features"][:1])
    assert logits.softmax(1)[0] == pytest.approx(names["prediction"].scores, abs=1e-5)
    plt = names["plt"]
    assert [len(plt.figure(number).axes) for number in plt.get_fignums()] == [7, 1]
    plt.close("all")
