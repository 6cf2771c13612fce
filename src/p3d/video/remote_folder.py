"""The videos in a folder at an address."""

from __future__ import annotations

from urllib.parse import urlsplit

from p3d.errors import UserError
from p3d.video.remote import find_system, is_address, public_name, unfetched
from p3d.video.suffixes import VIDEO_SUFFIXES

_WEB = ("http", "https")


def videos_at(address: str) -> list[str]:
    """Return the addresses of the videos in a folder and its subfolders, or of a single video.

    An address with `*` is a pattern. One without the suffix of a video may be a folder; on the web,
    folders end with a slash, and the server has to answer with a page of links.

    Raises:
        UserError: The folder cannot be listed, or holds no video.
    """
    parts = urlsplit(address)
    is_web = parts.scheme.lower() in _WEB
    is_pattern = "*" in parts.path
    if not is_pattern and (_is_video(parts.path) or (is_web and not parts.path.endswith("/"))):
        return [address]
    system, path = find_system(address)
    try:
        if not is_pattern and not is_web and system.isfile(path):
            return [address]
        names = system.glob(path) if is_pattern else system.find(path)
        found = sorted(filter(_is_video, names))
    except Exception as error:
        reason = unfetched(public_name(address), error).reason
        raise UserError(f"{public_name(address)}: cannot be listed ({reason})") from None
    if not found:
        raise UserError(f"{public_name(address)}: holds no videos; check the address")
    return [name if is_address(name) else system.unstrip_protocol(name) for name in found]


def _is_video(name: str) -> bool:
    return urlsplit(name).path.rpartition(".")[2].lower() in VIDEO_SUFFIXES
