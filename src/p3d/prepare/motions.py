"""Motions of textured objects that differ only in the order of their frames.

Four motions (sideways, vertical, apart, zoom) give two classes each: one is the other played
backwards. The two classes share all random draws, so their videos of one group and clip are the
*same frames* in opposite order, noise included. A method that ignores the order of frames gives
both the same answer, and is right for at most one of them.

The position and size of the object are functions of the time from the middle frame, where all
classes have the same distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

SIZE = 48
"""Height and width of a frame, in pixels."""

NUM_FRAMES = 23
"""Frames in a video. Odd, so that a centered window with stride 2 is its own mirror image."""

CLASSES: dict[str, tuple[str, bool]] = {
    "MoveApart": ("apart", False),
    "MoveDown": ("vertical", False),
    "MoveLeft": ("sideways", True),
    "MoveRight": ("sideways", False),
    "MoveTogether": ("apart", True),
    "MoveUp": ("vertical", True),
    "ZoomIn": ("zoom", False),
    "ZoomOut": ("zoom", True),
}
"""Motion of each class, and whether it is played backwards."""

MOTIONS = tuple(dict.fromkeys(motion for motion, _ in CLASSES.values()))

ZOOM = 0.04
"""Growth of the logarithm of a zooming object's size while another object moves by one pixel."""

APART = 0.7
"""Pixels that each of two separating objects moves while a single object moves by one."""

APART_GAP = 11.0
"""Distance in pixels of two separating objects from their center line, in the middle frame."""

APART_SIZE = 0.7
"""Size of each of two separating objects relative to a single object."""

BACKGROUND_CELL = 6.0
"""Distance in pixels of the background's random colors."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """What the clips of a group share. Colors are in [0, 1].

    Attributes:
        background: Random colors `(n, n, 3)`, repeated over the frame.
        texture: Random colors `(n, n, 3)` of the object.
        roundness: Exponent of the object's superellipse; 2 is an ellipse, more is squarer.
        aspect: Half the logarithm of the object's ratio of width to height.
    """

    background: Floats
    texture: Floats
    roundness: float
    aspect: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Scene:
        """Draw a random dim background and a bright object."""
        cells = int(rng.integers(3, 5))
        return cls(
            background=0.03 + 0.3 * rng.random((8, 8, 3), dtype=np.float32),
            texture=(0.3 + 0.7 * rng.beta(0.5, 0.5, (cells, cells, 3))).astype(np.float32),
            roundness=float(rng.choice([2.0, 4.0, 8.0])),
            aspect=float(rng.uniform(-0.2, 0.2)),
        )


@dataclass(frozen=True)
class Take:
    """What differs between the clips of a group. Lengths are in pixels of the middle frame.

    Attributes:
        x: Horizontal offset of the object's center from the frame's center, positive to the right.
        y: Vertical offset of the object's center from the frame's center, positive downwards.
        radius: Half the object's side.
        angle: Clockwise rotation of the object in radians.
        speed: Pixels per frame; separation and zoom are proportional to it.
        shift: Offset of the background, downwards and to the right.
        gain: Brightness of the whole clip.
        noise_seed: Seed of the pixel noise.
    """

    x: float
    y: float
    radius: float
    angle: float
    speed: float
    shift: tuple[float, float]
    gain: float
    noise_seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Take:
        """Draw random values for a clip."""
        period = 8 * BACKGROUND_CELL
        return cls(
            x=float(rng.uniform(-4, 4)),
            y=float(rng.uniform(-4, 4)),
            radius=float(rng.uniform(11.5, 16.5)),
            angle=float(rng.uniform(0, 2 * np.pi)),
            speed=float(rng.uniform(1.2, 1.9)),
            shift=(float(rng.uniform(0, period)), float(rng.uniform(0, period))),
            gain=float(rng.uniform(0.8, 1.1)),
            noise_seed=int(rng.integers(2**31)),
        )


def _colors(grid: Floats, y: Floats, x: Floats) -> Floats:
    """Interpolate smoothly in a periodic grid of colors at positions `y`, `x` (in cells)."""
    cells = len(grid)
    top, left = np.floor(y), np.floor(x)
    down, right = y - top, x - left
    down = (down * down * (3 - 2 * down))[..., None]
    right = (right * right * (3 - 2 * right))[..., None]
    rows = top.astype(np.intp) % cells, (top.astype(np.intp) + 1) % cells
    columns = left.astype(np.intp) % cells, (left.astype(np.intp) + 1) % cells
    upper, lower = (
        grid[row, columns[0]] * (1 - right) + grid[row, columns[1]] * right for row in rows
    )
    return cast(Floats, upper * (1 - down) + lower * down)


def _object(motion: str, scene: Scene, take: Take) -> tuple[Floats, Floats]:
    """Return colors `(T, H, W, 3)` and coverage `(T, H, W, 1)` of the moving object."""
    steps = np.arange(NUM_FRAMES, dtype=np.float32) - (NUM_FRAMES - 1) / 2
    distance = take.speed * steps[:, None, None]
    axis = np.arange(SIZE, dtype=np.float32) - (SIZE - 1) / 2
    dx = axis[None, None, :] - take.x - (distance if motion == "sideways" else 0)
    dy = axis[None, :, None] - take.y - (distance if motion == "vertical" else 0)
    radius = take.radius * np.exp(distance * (ZOOM if motion == "zoom" else 0))
    if motion == "apart":
        # Folding space at the center line draws the object and its mirror image.
        dx = np.abs(dx) - (APART_GAP + APART * distance)
        radius = radius * APART_SIZE
    cos, sin = np.cos(take.angle), np.sin(take.angle)
    across = (cos * dx + sin * dy) / (radius * np.exp(scene.aspect))
    along = (cos * dy - sin * dx) / (radius * np.exp(-scene.aspect))
    power = scene.roundness
    norm = (np.abs(across) ** power + np.abs(along) ** power) ** (1 / power)
    coverage = np.clip((1 - norm) * radius + 0.5, 0, 1)
    half = len(scene.texture) / 2
    colors = _colors(scene.texture, (along + 1) * half, (across + 1) * half)
    return colors, coverage[..., None].astype(np.float32)


def render(motion: str, scene: Scene, take: Take) -> NDArray[np.uint8]:
    """Render a motion, played forwards.

    Args:
        motion: One of `MOTIONS`.
        scene: Textures and shape of the group.
        take: Values of the clip.

    Returns:
        uint8 RGB frames `(T, H, W, 3)`.
    """
    colors, coverage = _object(motion, scene, take)
    axis = np.arange(SIZE, dtype=np.float32) / BACKGROUND_CELL
    down, right = (np.float32(shift / BACKGROUND_CELL) for shift in take.shift)
    background = _colors(scene.background, *np.meshgrid(axis - down, axis - right, indexing="ij"))
    frames = take.gain * (background + coverage * (colors - background))
    rng = np.random.default_rng(take.noise_seed)
    frames += 0.01 * rng.standard_normal(frames.shape, dtype=np.float32)
    return cast(NDArray[np.uint8], (255 * np.clip(frames, 0, 1) + 0.5).astype(np.uint8))


def render_video(class_name: str, group: int, clip: int, seed: int) -> NDArray[np.uint8]:
    """Render one video of the sample set, a pure function of the four arguments.

    Partner classes share all random draws; one of them is played backwards.

    Returns:
        uint8 RGB frames `(T, H, W, 3)`.
    """
    motion, backwards = CLASSES[class_name]
    key = (seed, MOTIONS.index(motion), group)
    scene = Scene.draw(np.random.default_rng([*key, 0]))
    take = Take.draw(np.random.default_rng([*key, 1 + clip]))
    frames = render(motion, scene, take)
    return frames[::-1] if backwards else frames
