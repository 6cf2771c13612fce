"""Named protocols, and options that do not fit together."""

from __future__ import annotations

import pytest

from p3d.data.views import Views
from p3d.errors import UserError
from p3d.evaluation.protocols import Name, choose_protocol
from p3d.preprocessing import AUTHORS, AUTHORS_FLOW, IMAGENET, Preprocessing

SMALL = Preprocessing(num_frames=8, frame_stride=2, resize=(48, 64), crop=40)


def test_weights_protocol_changes_nothing() -> None:
    protocol = choose_protocol("weights", 5, Views(), SMALL)
    assert protocol.is_default
    assert protocol.prep is SMALL
    assert (protocol.clips, protocol.views) == (5, Views())


def test_paper_protocol_is_the_default_of_networks_of_the_papers_size() -> None:
    protocol = choose_protocol("paper", 20, Views(), IMAGENET)
    assert protocol.prep == IMAGENET
    assert protocol.views == Views()


@pytest.mark.parametrize(
    ("name", "resize", "spacing"),
    [("paper", (182, 242), "uniform"), ("authors-features", 162, "authors")],
)
def test_published_protocols_set_sizes_but_not_what_the_network_takes(
    name: Name, resize: object, spacing: str
) -> None:
    protocol = choose_protocol(name, 20, Views(), SMALL)
    prep = protocol.prep
    assert (prep.num_frames, prep.frame_stride, prep.resize, prep.crop) == (16, 1, resize, 160)
    assert protocol.views.spacing == spacing
    assert (prep.channels, prep.mean, prep.std) == (SMALL.channels, SMALL.mean, SMALL.std)
    assert choose_protocol(name, 20, Views(), AUTHORS).prep.channels == "bgr"


def test_protocol_is_described_and_recorded() -> None:
    views = Views(crops=3, mirror=True, order="shuffled", seed=4)
    protocol = choose_protocol("authors-features", 20, views, SMALL)
    assert protocol.describe() == (
        "protocol authors-features: 20 author-spaced clips of 16 frames, resized to a short side "
        "of 162, 3 crops of 160, mirrored copies, frames shuffled"
    )
    assert protocol.record() == {
        "protocol": "authors-features",
        "clips": 20,
        "spacing": "authors",
        "crops": 3,
        "mirror": True,
        "order": "shuffled",
        "seed": 4,
    }


@pytest.mark.parametrize(
    ("name", "clips", "views", "prep", "message"),
    [
        ("paper", 5, Views(), SMALL, "--clips is 5, but --protocol paper has 20; drop one"),
        ("weights", 5, Views(crops=10, mirror=True), SMALL, "--crops 10 has mirrored copies"),
        (
            *("weights", 5, Views(crops=3)),
            Preprocessing(resize=(40, 40), crop=40),
            "--crops 3: frames are resized to 40x40, the size of the crop",
        ),
        ("weights", 5, Views(order="still"), AUTHORS_FLOW, "--frames: the network takes optical"),
        ("weights", 5, Views(seed=-1), SMALL, "--seed is -1; give 0 or more"),
    ],
)
def test_options_that_do_not_fit_are_errors(
    name: Name, clips: int, views: Views, prep: Preprocessing, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        choose_protocol(name, clips, views, prep)


def test_flow_networks_take_mirrored_copies() -> None:
    assert choose_protocol("paper", 20, Views(mirror=True), AUTHORS_FLOW).prep.channels == "flow"
