"""Search for the videos below a folder: in class folders at any depth, or anywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from p3d.data.dataset import examples
from p3d.data.listing import FolderEntries, list_folder, visible_entries
from p3d.errors import UserError
from p3d.video.suffixes import FRAME_SUFFIXES

MAX_DEPTH = 20
"""Number of nested folders that are searched; a link to a folder above would have no end."""


@dataclass(frozen=True)
class Tree:
    """What is below a folder, by names relative to it.

    Attributes:
        root: The folder.
        videos: Video files and folders of frames.
        ignored: Other files.
        beside: Video files next to class folders.
    """

    root: Path
    videos: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)


def class_tree(root: Path, prefix: str, listed: FolderEntries) -> Tree:
    """List the class folders in a folder, at any depth.

    A folder that holds videos is a class folder. Its subfolders are folders of frames; to save
    time, only one of them is looked into.

    Args:
        root: Names are relative to this folder.
        prefix: Name of the folder below the root with a slash, "" for the root itself.
        listed: What is in the folder.

    Raises:
        UserError: A folder has no videos, or holds both videos and class folders.
    """
    tree = Tree(root)
    tree.beside.extend(prefix + name for name in listed.videos)
    for name in listed.folders:
        _add_classes(tree, prefix + name)
    return tree


def _add_classes(tree: Tree, name: str) -> None:
    _check_depth(tree, name)
    folder = tree.root / name
    listed = list_folder(folder)
    frames = listed.frame_folders()
    if not listed.videos and not frames:
        files = f"only {examples(listed.others)}; convert them" if listed.others else "add some"
        raise UserError(f"{folder}: has no videos, {files}, or move it out of the data set")
    tree.ignored.extend(f"{name}/{file}" for file in listed.others)
    if not frames or _has_frames(folder / frames[0]):
        tree.videos.extend(f"{name}/{video}" for video in sorted(listed.videos + frames))
    elif listed.videos:
        raise UserError(
            f"{folder}: holds videos and the folder {frames[0]}, which is no folder of frames; "
            "move the videos into a folder of their own, or give --class-pattern"
        )
    else:
        for inner in listed.folders:
            _add_classes(tree, f"{name}/{inner}")


def any_tree(root: Path, prefix: str, listed: FolderEntries) -> Tree:
    """List the videos anywhere below a folder, see `class_tree`.

    A folder that holds only pictures, and no folders, is a video, unless there is a file of that
    name.

    Raises:
        UserError: A folder cannot be listed.
    """
    tree = Tree(root)
    _add_videos(tree, prefix, listed)
    return tree


def _add_videos(tree: Tree, prefix: str, listed: FolderEntries) -> None:
    _check_depth(tree, prefix)
    tree.ignored.extend(prefix + name for name in listed.others)
    tree.videos.extend(prefix + name for name in listed.videos)
    frame_folders = set(listed.frame_folders())
    for name in listed.folders:
        inner = list_folder(tree.root / prefix / name)
        if inner.videos or inner.folders or not any(map(_is_frame, inner.others)):
            _add_videos(tree, f"{prefix}{name}/", inner)
        elif name in frame_folders:
            tree.videos.append(prefix + name)


def _check_depth(tree: Tree, name: str) -> None:
    if name.count("/") > MAX_DEPTH:
        raise UserError(
            f"{tree.root / name}: is more than {MAX_DEPTH} folders deep; remove the link that "
            "leads back up, or move the videos"
        )


def _has_frames(folder: Path) -> bool:
    return any(_is_frame(entry.name) for entry in visible_entries(folder))


def _is_frame(name: str) -> bool:
    return name.lower().endswith(FRAME_SUFFIXES)
