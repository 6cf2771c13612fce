"""The benchmark of optical flow compares the same frames."""

from __future__ import annotations

from pathlib import Path

import flow
import pytest

from helpers.videos import write_video

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'p3d[flow]'")
if not hasattr(cv2, "optflow"):
    pytest.skip("OpenCV lacks its contrib modules: see p3d[flow]", allow_module_level=True)


def test_each_pair_is_compared_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        write_video(tmp_path / f"{number}.avi", 4)
    pairs = flow.read_pairs(tmp_path, 5)
    assert len(pairs) == 2
    results = flow.measure(pairs, [1], rounds=2)
    assert {len(result.flows) for result in results.values()} == {2}
    assert {len(result.seconds[1]) for result in results.values()} == {2}
    flow.main(["--data", str(tmp_path), "--rounds", "1"])
    lines = capsys.readouterr().out.splitlines()
    first = [line.split()[0] for line in lines]
    rows = first[first.index("tvl1") :]
    opencl = ["tvl1-opencl"] if cv2.ocl.useOpenCL() else []
    again = [f"{name}," for name in opencl]
    assert rows == ["tvl1", "tvl1-opencv", *opencl, "dis", *again, "tvl1-opencv,"]
    assert "0.0000" in lines[first.index("tvl1-opencv")]
    assert ("left out: the method tvl1-opencl needs" in lines[0]) == (not opencl)
