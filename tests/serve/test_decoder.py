"""Tests of the process that decodes videos for the service."""

import multiprocessing

import pytest

from p3d.preprocessing import Preprocessing
from p3d.serve.decoder import DecoderSettings, decode_videos
from p3d.serve.options import Limits


@pytest.mark.parametrize("is_read", [True, False], ids=["its news read", "its news unread"])
def test_it_ends_with_its_connection(is_read: bool) -> None:
    # Closing a connection with unread bytes resets it: the other end gets an error, not its end.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    settings = DecoderSettings(Preprocessing(), 1, Limits())
    process = context.Process(target=decode_videos, args=(theirs, settings))
    process.start()
    theirs.close()
    assert ours.poll(60)
    if is_read:
        ours.recv_bytes()
    ours.close()
    process.join(60)
    assert process.exitcode == 0
