"""Saving and loading networks as folders, locally or on the Hugging Face Hub.

A folder contains `model.safetensors` (sufficient to load the network), `config.json` (its metadata
in readable form) and `README.md` (a model card). The Hub needs the extra `p3d[hub]`.
"""

from __future__ import annotations

import html
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from p3d.errors import UserError, printable
from p3d.model.network import P3D
from p3d.system.files import replacing_together, write_text, writing
from p3d.weights.loading import load_model
from p3d.weights.metadata import save_model

_PUNCTUATION = re.compile(r"([!-%*-+.:;=?@\[-`{-~-])")
"""ASCII punctuation with a meaning in Markdown, HTML aside."""

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
CARD_FILE = "README.md"


def _escape(text: str) -> str:
    """Return text for one line of Markdown, which shows it as it is."""
    line = " ".join(printable(text).split())
    return html.escape(_PUNCTUATION.sub(r"\\\1", line), quote=False)


def model_card(
    model: P3D, *, source: str | None = None, recipe: Mapping[str, Any] | None = None
) -> str:
    """Return a model card: YAML front matter for the Hub, then Markdown.

    Args:
        model: The network.
        source: Where its weights come from, as text.
        recipe: How they were trained.
    """
    config, prep = model.config, model.preprocessing
    lines = [
        "---",
        "library_name: p3d",
        "pipeline_tag: video-classification",
        "tags: [p3d, video-classification, action-recognition]",
        "---",
        "",
        f"# {config.name}, {config.num_classes} classes",
        "",
        "A Pseudo-3D residual network (Qiu, Yao, Mei, ICCV 2017) for action recognition.",
        "",
        "| | |",
        "| --- | --- |",
        f"| network | {config.name}, {config.wiring} wiring, {config.variant} |",
        f"| input | {config.modality}; channels {prep.channels}, mean {list(prep.mean)}, "
        f"std {list(prep.std)} (of 0-255) |",
        f"| clip | {prep.num_frames} frames {prep.describe_rate()}, stride {prep.frame_stride}, "
        f"resized to {prep.describe_resize()}, crop {prep.crop} |",
        f"| parameters | {sum(p.numel() for p in model.parameters()):,} |",
        f"| source | {_escape(source or 'not recorded')} |",
        "",
        "```python",
        "from p3d.hub import from_pretrained",
        "",
        'model = from_pretrained("this folder or repository")',
        "```",
    ]
    if recipe:
        lines += ["", "## Recipe", "", "```json", json.dumps(recipe, indent=2), "```"]
    if model.class_names:
        lines += ["", "## Classes", "", ", ".join(map(_escape, model.class_names))]
    return "\n".join(lines) + "\n"


def save_pretrained(
    model: P3D,
    folder: Path | str,
    *,
    source: str | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> None:
    """Save a network as a folder with weights, configuration and model card.

    Args:
        model: The network.
        folder: The folder, created if missing. Files of the same names are replaced.
        source: Where the weights come from, as text.
        recipe: How they were trained; any JSON-serializable values.

    Raises:
        UserError: The folder cannot be created or written.
    """
    folder = Path(folder)
    config = asdict(model.config) | {
        "preprocessing": model.preprocessing.to_dict(),
        "class_names": model.class_names,
        "source": source,
        "recipe": recipe,
    }
    texts = {
        CONFIG_FILE: json.dumps(config, indent=2, ensure_ascii=False) + "\n",
        CARD_FILE: model_card(model, source=source, recipe=recipe),
    }
    with writing(folder, "choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing_together(folder, last=WEIGHTS_FILE) as drafts:
            save_model(model, drafts / WEIGHTS_FILE, source=source, recipe=recipe)
            for name, text in texts.items():
                write_text(drafts / name, text)


def _huggingface_hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            "the Hugging Face Hub needs huggingface_hub, which is not installed; "
            "run: pip install 'p3d[hub]'"
        ) from error
    return huggingface_hub


def _first_line(error: Exception) -> str:
    return printable((str(error).splitlines() or [type(error).__name__])[0])


def from_pretrained(
    folder_or_repo_id: Path | str, *, revision: str | None = None, **overrides: Any
) -> P3D:
    """Load a network that `save_pretrained` or `push_to_hub` saved.

    Args:
        folder_or_repo_id: A local folder (also that of a training run), or a repository on the Hub
            ("owner/name").
        revision: Branch, tag or commit of the repository, by default its main branch.
        overrides: Keyword arguments of `p3d.load_model`.

    Returns:
        The network, float32, on the CPU, in evaluation mode.

    Raises:
        UserError: The folder or repository does not exist or contains no network, the Hub cannot be
            reached, or `huggingface_hub` is not installed.
    """
    folder = Path(folder_or_repo_id)
    if folder.is_dir():
        weights = folder / WEIGHTS_FILE
        return load_model(weights if weights.exists() else folder, **overrides)
    repo_id = str(folder_or_repo_id)
    if repo_id.count("/") != 1 or repo_id.startswith((".", "~", "/")) or repo_id.endswith("/"):
        raise UserError(
            f"{printable(repo_id)}: neither a folder nor a repository; "
            "give a folder or 'owner/name'"
        )
    hub = _huggingface_hub()
    try:
        path = hub.hf_hub_download(repo_id, WEIGHTS_FILE, revision=revision)
    # The errors of the library and of its HTTP client have no common class.
    except Exception as error:
        raise UserError(
            f"{repo_id}: not a local folder, and cannot be downloaded from the Hub "
            f"({_first_line(error)}); check the name, the revision and the connection"
        ) from error
    return load_model(path, **overrides)


def push_to_hub(
    model: P3D,
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool = False,
    source: str | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> str:
    """Save a network in a repository on the Hub, created if missing.

    Log in with `hf auth login` first.

    Args:
        model: The network.
        repo_id: "owner/name".
        revision: Branch to write to, by default the main branch.
        private: Whether a new repository is private.
        source: Where the weights come from, as text.
        recipe: How they were trained; any JSON-serializable values.

    Returns:
        The URL of the repository.

    Raises:
        UserError: `huggingface_hub` is not installed, or the Hub refuses or cannot be reached.
    """
    hub = _huggingface_hub()
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder, source=source, recipe=recipe)
        try:
            api = hub.HfApi()
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision)
        except Exception as error:
            raise UserError(
                f"{repo_id}: cannot be saved on the Hub ({_first_line(error)}); "
                "check the name and the connection, and log in with: hf auth login"
            ) from error
    return str(url)
