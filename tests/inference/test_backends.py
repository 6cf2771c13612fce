"""One scorer with several backends: equal logits, the batch of the device, and the choice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.tiny_networks import FRAMES, SIZE, make_networks_narrow, tiny_network
from p3d.errors import UserError
from p3d.inference import networks
from p3d.inference.export_spec import noise_clip
from p3d.inference.networks import choose, chosen_backend, load_network, make_scorer
from p3d.inference.scorer import Scorer, best_batch
from p3d.preprocessing import Preprocessing
from p3d.system.compiler import known_seconds, record_seconds, use_cache
from p3d.system.device import Precision
from p3d.weights.metadata import save_model

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _small_and_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    make_networks_narrow(monkeypatch)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def clips() -> torch.Tensor:
    config = tiny_network().config
    return torch.cat([noise_clip(config, FRAMES, SIZE, seed) for seed in range(5)])


def compile_with(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[torch.Tensor], torch.Tensor]
) -> list[torch.Size]:
    """Replace the compiler by one that changes the logits; return the shapes that it sees."""
    shapes: list[torch.Size] = []

    def replacement(network: Any, **_: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        def call(clips: torch.Tensor) -> torch.Tensor:
            shapes.append(clips.shape)
            return change(network(clips))

        return call

    monkeypatch.setattr(torch, "compile", replacement)
    return shapes


def record_graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Trace without compiling; return the numbers of inputs of the graphs that come."""
    inputs: list[int] = []
    compile_graph = torch.compile

    def record(graph: torch.fx.GraphModule, _: Any) -> torch.fx.GraphModule:
        inputs.append(sum(node.op == "placeholder" for node in graph.graph.nodes))
        return graph

    def replacement(network: Any, **options: Any) -> Any:
        return compile_graph(network, backend=record, **options)

    monkeypatch.setattr(torch, "compile", replacement)
    return inputs


@pytest.mark.parametrize("batch_size", [None, 1, 2, 16])
def test_batches_do_not_change_the_logits(clips: torch.Tensor, batch_size: int | None) -> None:
    model = tiny_network()
    expected = torch.cat([Scorer(model, CPU, batch_size=1)(clip[None]) for clip in clips])
    found = Scorer(model, CPU, batch_size=batch_size)(clips)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_batch_of_a_device() -> None:
    assert best_batch(CPU, Preprocessing()) == 1
    assert best_batch(CPU, Preprocessing(crop=80)) == 7
    assert best_batch(CPU, Preprocessing(num_frames=8, crop=40)) == 16
    assert best_batch(CPU, Preprocessing(), many_in_bf16=True) == 4
    assert best_batch(CPU, Preprocessing(crop=112), many_in_bf16=True) == 8
    assert best_batch(torch.device("cuda"), Preprocessing()) == 16
    assert best_batch(torch.device("cuda"), Preprocessing(crop=16)) == 256
    assert best_batch(torch.device("cuda"), Preprocessing(num_frames=10_000)) == 1


def test_compiled_batches_have_one_shape(
    clips: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = compile_with(monkeypatch, lambda logits: logits)
    model = tiny_network()
    found = Scorer(model, CPU, compiled=True, batch_size=2)(clips)
    torch.testing.assert_close(found, Scorer(model, CPU)(clips), rtol=1e-4, atol=1e-4)
    assert set(shapes) == {torch.Size((2, FRAMES, SIZE, SIZE, 3))}


def test_a_wrong_compiled_network_is_refused(
    clips: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_with(monkeypatch, lambda logits: logits * 1.01)
    scorer = Scorer(tiny_network(), CPU, compiled=True)
    with pytest.raises(UserError, match=r"the compiled network differs .* use --backend eager"):
        scorer(clips)


def test_weights_are_constants_of_the_compiled_network(
    clips: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else they keep their memory layout, and a sixth of the speed is lost."""
    inputs = record_graphs(monkeypatch)
    for scale in (1, 2):  # the second network does not get the constants of the first
        model = tiny_network()
        with torch.no_grad():
            model.fc.weight.mul_(scale)
        found = Scorer(model, CPU, compiled=True)(clips)
        torch.testing.assert_close(found, Scorer(model, CPU)(clips), rtol=1e-4, atol=1e-4)
    assert inputs == [1, 1], "the clips alone"


def test_clips_of_one_and_of_several_videos_share_the_compiled_network(
    clips: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second graph would be compiled without constant weights, and be slower."""
    inputs = record_graphs(monkeypatch)
    scorer = Scorer(tiny_network(), CPU, compiled=True, batch_size=2)
    scorer(clips[:2])
    with torch.inference_mode():
        scorer(torch.cat([clips[:1], clips[1:2]]))
    assert len(inputs) == 1


MANY_NETWORKS = """
import pytest, torch
from helpers.tiny_networks import FRAMES, SIZE, make_networks_narrow, tiny_network
from p3d.inference.backends.compiled_network import CompiledNetwork
from p3d.inference.export_spec import noise_clip

traced = []

def record(graph, inputs):
    traced.append(sum(node.op == "placeholder" for node in graph.graph.nodes))
    return graph

compile_graph = torch.compile
torch.compile = lambda method, **options: compile_graph(method, backend=record, **options)
CPU = torch.device("cpu")
with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
    make_networks_narrow(patch)
    for size in range(SIZE, SIZE + 9):
        model = tiny_network()
        clip = noise_clip(model.config, FRAMES, size)
        network = CompiledNetwork(model, CPU, "fp32")
        assert torch.equal(network(clip), network(clip))
print(len(traced), set(traced))
"""


def test_any_number_of_networks_is_compiled() -> None:
    """PyTorch keeps eight results of a function, and runs the ninth network without compiling."""
    run = subprocess.run(
        [sys.executable, "-c", MANY_NETWORKS],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout == "9 {1}\n", run.stderr


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    model = tiny_network()
    with pytest.raises(UserError, match=r"needs a C.. compiler; install"):
        Scorer(model, CPU, compiled=True)
    choice = choose(model, Scorer(model, CPU), "fp32", 10**9)
    assert not choice.compiled
    assert "g++" in choice.reason


def test_auto_compiles_where_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "find_compiler", lambda: "g++")
    model = tiny_network()
    scorer = Scorer(model, CPU)
    assert not choose(model, scorer, "fp32", 1).compiled
    choice = choose(model, scorer, "fp32", 10**9)
    assert choice.compiled
    assert str(use_cache()) in choice.reason
    assert not choose(model, scorer, "fp16", 10**9).compiled
    key = networks.compile_key(model, CPU, "fp32")
    record_seconds(key, 1e12)
    assert known_seconds(key) == 1e12
    assert not choose(model, scorer, "fp32", 10**9).compiled


def test_auto_says_what_it_chose(capsys: pytest.CaptureFixture[str]) -> None:
    make_scorer(tiny_network(), CPU, clips=49)
    assert capsys.readouterr().err == ""
    make_scorer(tiny_network(), CPU, clips=50)
    assert "p3d: backend eager: " in capsys.readouterr().err
    make_scorer(tiny_network(), CPU)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("precision", "clips", "expected"), [("bf16", 50, 4), ("bf16", 49, 1), ("fp32", 50, 1)]
)
def test_batches_of_many_clips_are_larger_in_bf16(
    precision: Precision, clips: int, expected: int
) -> None:
    model = tiny_network()
    model.preprocessing = Preprocessing()
    scorer = make_scorer(model, CPU, precision, backend="compiled", clips=clips)
    assert scorer.batch_size == expected
    scorer = make_scorer(model, CPU, precision, backend="compiled", clips=clips, batch_size=3)
    assert scorer.batch_size == 3


def test_cache_of_compiled_networks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert use_cache() == tmp_path / "cache"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert use_cache() == tmp_path / "p3d" / "compiled"
    (tmp_path / "p3d").write_text("no folder")
    record_seconds("network", 2.0)  # a folder that cannot be written is no error
    assert known_seconds("network") is None


def test_backends_of_files_need_a_file(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_model(tiny_network(), weights)
    with pytest.raises(UserError, match=r"first run p3d export .*w\.safetensors .*w\.onnx"):
        load_network(weights, "onnx")
    with pytest.raises(UserError, match="--compile and --backend onnx exclude each other"):
        chosen_backend("onnx", compiled=True)
    assert chosen_backend("auto", compiled=True) == "compiled"
