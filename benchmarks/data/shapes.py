"""Shapes: generated images of 64x64 pixels for segmentation, with the class of each pixel.

    0  background
    1  disc        of a radius of 6 to 14 pixels
    2  rectangle   rotated, with sides of 10 to 28 pixels
    3  stripe      from border to border, 4 to 9 pixels wide, rotated
    255  void      where a region ends, one pixel wide: left out of losses and metrics

Three to seven objects lie on each other, a later one in front. Every region, the background too, has two colours of its own in
a pattern of its own (bands or a checkerboard), so that neither colour nor texture tells a class: a pixel's class shows in
the outline of its region, some of which is hidden or out of the picture. Light falls off to one side, and noise is on all.

Drawn from one fixed seed by additions, multiplications, divisions and roots alone, which round alike on every machine.
"""

from typing import NamedTuple

import numpy as np

SIDE, VOID = 64, 255
CLASSES = ("background", "disc", "rectangle", "stripe")
_SEED = 2024
_LEAST_OBJECTS, _MOST_OBJECTS = 3, 7
# Images that are drawn at a time.
_PIECE = 200
# Largest noise of a pixel, in levels; the sum of two draws, so small ones are likelier.
_NOISE = 40
# How far the second colour of a region lies from its first, as a share of the way to another.
_CONTRAST = 0.25


class _Frame(NamedTuple):
    """Coordinates of all pixels, seen from an origin and along a direction of each image: each `(n, SIDE, SIDE)`."""

    along: np.ndarray
    across: np.ndarray


def draw_shapes(train: int, test: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images and masks of both splits; of fewer images, the first are the same.

    Args:
        train: images of the training split.
        test: images of the test split.

    Returns:
        Training images, uint8 `(train, 64, 64, 3)`, their masks, uint8 `(train, 64, 64)`, and those of the test split.
    """
    return *_draw(0, train), *_draw(1, test)


def _draw(split: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    pieces = []
    for number in range(-(-count // _PIECE)):
        pieces.append(_draw_piece(np.random.default_rng(np.random.SeedSequence([_SEED, split, number]))))
    images, masks = (np.concatenate(parts)[:count] for parts in zip(*pieces, strict=True))
    return images, masks


def _draw_piece(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    region = np.zeros((_PIECE, SIDE, SIDE), "uint8")
    masks, pattern = region.copy(), _pattern(rng)
    objects = rng.integers(_LEAST_OBJECTS, _MOST_OBJECTS + 1, (_PIECE, 1, 1))
    for number in range(1, _MOST_OBJECTS + 1):
        kind, inside = _object(rng)
        inside &= number <= objects
        region[inside] = number
        np.copyto(masks, kind, where=inside)
        np.copyto(pattern, _pattern(rng), where=inside)
    colours = rng.uniform(0, 255, (_PIECE, _MOST_OBJECTS + 1, 2, 3)).astype("float32")
    # The second colour of a region lies near its first: a change of texture is no border.
    colours[:, :, 1] = colours[:, :, 0] + _CONTRAST * (colours[:, :, 1] - colours[:, :, 0])
    images = colours[np.arange(_PIECE)[:, None, None], region, pattern]
    noise = sum(rng.integers(-_NOISE // 2, _NOISE // 2 + 1, images.shape, "int8") for _ in range(2))
    images = images * (1 + 0.3 * _frame(rng).along[..., None] / SIDE) + noise
    ends = np.zeros(region.shape, bool)
    ends[:, :-1] |= region[:, :-1] != region[:, 1:]
    ends[:, :, :-1] |= region[:, :, :-1] != region[:, :, 1:]
    masks[ends] = VOID
    return np.clip(np.rint(images), 0, 255).astype("uint8"), masks


def _uniform(rng: np.random.Generator, least: float, most: float) -> np.ndarray:
    return rng.uniform(least, most, (_PIECE, 1, 1)).astype("float32")


def _frame(rng: np.random.Generator) -> _Frame:
    half = _uniform(rng, -1, 1)  # the tangent of half the angle, from which both others follow without libm
    cosine, sine = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    places = np.arange(SIDE, dtype="float32") + 0.5
    x = places[None, None, :] - _uniform(rng, 0, SIDE)
    y = places[None, :, None] - _uniform(rng, 0, SIDE)
    return _Frame(cosine * x + sine * y, cosine * y - sine * x)


def _object(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The class of an object in each image, `(n, 1, 1)`, and the pixels that it covers, `(n, SIDE, SIDE)`."""
    frame, kind = _frame(rng), rng.integers(1, len(CLASSES), (_PIECE, 1, 1)).astype("uint8")
    radius, length, width, thickness = (_uniform(rng, *sides) for sides in ((6, 14), (5, 14), (5, 14), (2, 4.5)))
    along, across = abs(frame.along), abs(frame.across)
    disc = along * along + across * across < radius * radius
    inside = np.where(kind == 1, disc, np.where(kind == 2, (along < length) & (across < width), across < thickness))
    return kind, inside


def _pattern(rng: np.random.Generator) -> np.ndarray:
    """Which of its two colours each pixel has, in bands or in a checkerboard: uint8 `(n, SIDE, SIDE)` of 0 and 1."""
    frame, period, is_board = _frame(rng), _uniform(rng, 4, 16), rng.integers(0, 2, (_PIECE, 1, 1), "int16")
    along, across = (np.floor(places / period).astype("int16") for places in frame)
    return ((along + is_board * across) & 1).astype("uint8")
