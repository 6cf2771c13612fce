from pathlib import Path

from p3d.data.dataset import VideoRecord
from p3d.data.digests import DIGEST_BYTES, video_digest


def test_digest_depends_on_class_and_name_only() -> None:
    names = ("run", "walk")
    digest = video_digest(VideoRecord(Path("/a/run/x.avi"), 0), names)
    assert len(digest) == DIGEST_BYTES
    assert digest == video_digest(VideoRecord(Path("/b/Run/X.avi"), 0, group="x"), names)
    assert digest != video_digest(VideoRecord(Path("/a/run/x.avi"), 1), names)
    assert digest != video_digest(VideoRecord(Path("/a/run/y.avi"), 0), names)


def test_digest_takes_names_that_are_not_utf8_and_unlabeled_videos() -> None:
    strange = VideoRecord(Path("/a/\udcff.avi"), -1)
    assert video_digest(strange, ()) != video_digest(VideoRecord(Path("/a/z.avi"), -1), ())
