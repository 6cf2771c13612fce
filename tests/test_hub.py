"""Networks as folders; no test needs a connection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from p3d.errors import UserError
from p3d.hub import from_pretrained, model_card, push_to_hub, save_pretrained
from p3d.model.network import create_model
from p3d.run_folder import BEST_FILE
from p3d.weights.metadata import save_model


def test_saves_and_loads_a_folder(tmp_path: Path) -> None:
    model = create_model("p3d63", num_classes=2, wiring="port")
    model.class_names = ("up", "down")
    folder = tmp_path / "deep" / "folder"
    save_pretrained(model, folder, source="a test", recipe={"epochs": 2})
    assert sorted(file.name for file in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    config = json.loads((folder / "config.json").read_text())
    assert (config["name"], config["class_names"]) == ("p3d63", ["up", "down"])
    assert config["preprocessing"]["crop"] == 160
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: p3d\n")
    for expected in ("port wiring", "24,929,730", "up, down", "a test", '"epochs": 2'):
        assert expected in card
    loaded = from_pretrained(folder)
    assert loaded.config == model.config
    assert torch.equal(loaded.fc.weight, model.fc.weight)
    assert from_pretrained(folder, wiring="author").config.wiring == "author"


def test_the_card_shows_class_names_as_text() -> None:
    model = create_model("p3d63", num_classes=4)
    model.class_names = ("<img src=x onerror=1>", "[a](javascript:b)", "c\n# d", "e\u202ef_g")
    card = model_card(model, source="| a | `b` &lt;", recipe={"a": "```\n</code>"})
    *_, classes = card.splitlines()
    assert classes == (
        r"&lt;img src\=x onerror\=1&gt;, \[a\](javascript\:b), c\\n\# d, e\\u202ef\_g"
    )
    assert r"| source | \| a \| \`b\` &amp;lt\; |" in card
    assert [line for line in card.splitlines() if line.lstrip(" ").startswith("```")] == [
        *("```python", "```", "```json", "```")
    ]


@pytest.mark.usefixtures("narrow_networks")
def test_loads_the_folder_of_a_run(tmp_path: Path) -> None:
    save_model(create_model("p3d63", num_classes=2), tmp_path / BEST_FILE)
    assert from_pretrained(tmp_path).config.num_classes == 2


@pytest.mark.usefixtures("narrow_networks")
def test_rejects_bad_folders_and_repositories(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a folder nor a repository"):
        from_pretrained(tmp_path / "none")
    with pytest.raises(UserError, match="it is a folder without weights"):
        from_pretrained(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        save_pretrained(create_model("p3d63", num_classes=2), tmp_path / "file")


def test_names_the_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'p3d\[hub\]'"):
        from_pretrained("someone/p3d63")
    with pytest.raises(UserError, match=r"pip install 'p3d\[hub\]'"):
        push_to_hub(create_model("p3d63", num_classes=2), "someone/p3d63")


@pytest.mark.parametrize(
    "environment",
    [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}],
    ids=["offline", "refused"],
)
def test_an_unreachable_hub_gives_a_one_line_error(
    environment: dict[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("huggingface_hub", reason="needs the extra: p3d[hub]")
    code = (
        "from p3d.errors import UserError\n"
        "from p3d.hub import push_to_hub\n"
        "from p3d.model.network import create_model\n"
        "try:\n    push_to_hub(create_model('p3d63', num_classes=2), 'someone/p3d63')\n"
        "except UserError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"HF_HOME": str(tmp_path), "HF_TOKEN": "hf_none"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("someone/p3d63: cannot be saved on the Hub")
    assert done.stdout.count("\n") == 1


def test_every_error_of_the_hub_gives_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="needs the extra: p3d[hub]")

    class ConnectError(Exception):
        """As httpx's, which has no base in Python itself."""

    def fail(*_: object, **__: object) -> None:
        raise ConnectError("no\x1b[2J route\nmore")

    monkeypatch.setattr(hub, "hf_hub_download", fail)
    with pytest.raises(UserError, match=r"\(no\\x1b\[2J route\)") as caught:
        from_pretrained("someone/p3d63")
    assert str(caught.value).isprintable()
