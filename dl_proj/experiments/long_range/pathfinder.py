"""Pathfinder (Linsley et al. 2018, after Houtkamp and Roelfsema 2010): does a dashed contour join two dots?

A scene has two long contours with equally many dashes, shorter distractors, and a dot at each of two ends: of the same
long contour (label 1), or of different ones (label 0). In each scene, the dots would be about equally far apart with
either label, so their distance is no clue.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from dl_proj.experiments.long_range.parallel import bar, in_order

SIZE = 32.0  # side of a scene in units, whatever the side of its picture in pixels
DASH, GAP = 1.6, 1.0  # lengths along a contour
WIDTH, DOT = 0.9, 1.3  # width of a dash, radius of a dot
CLEARANCE, END_CLEARANCE = 2.6, 3.4  # between contours (more than GAP), and around their ends, where dots may be
_MARGIN = 1.8  # between contours and the border
_TURN = 0.75  # maximum radians from one dash to the next
_TRIES = 12  # per dash
_ATTEMPTS = 20  # per contour
_NEAREST, _TOLERANCE = 6.0, 1.5  # minimum distance of the dots; maximum difference of that distance between labels
_CELLS = 4  # cells of the occupancy map per unit
_FINER = 4  # each pixel is the mean of 4 x 4 finer ones
_DRAWN_TOGETHER = 20  # pairs of pictures

Point = tuple[float, float]


@dataclass(frozen=True)
class Scenery:
    """The contents of a scene.

    Args:
        dashes: number of dashes of each long contour.
        distractors: number of shorter contours, with a third as many dashes; fewer if there is no room.
    """

    dashes: int
    distractors: int


@dataclass(frozen=True)
class Scene:
    """The geometry of a picture, in units such that its side is SIZE.

    Args:
        contours: the nodes of each contour, long ones first; a dash starts at each node but the last.
        dots: the positions of the dots.
        label: 1 if they are the ends of one contour, else 0.
    """

    contours: tuple[list[Point], ...]
    dots: tuple[Point, Point]
    label: int


class _Map:
    """An occupancy map on a grid of cells: where no contour may go because others are too near."""

    def __init__(self) -> None:
        self._border = math.ceil(_CELLS * END_CLEARANCE)  # discs extend into it
        self._width = round(_CELLS * SIZE) + 2 * self._border
        self._taken = bytearray(self._width**2)

    def has(self, point: Point) -> bool:
        """Whether a point of the picture is too near to a contour."""
        return self._taken[self._cell(point)] == 1

    def take(self, point: Point, clearance: float) -> None:
        """Mark the disc around a point as occupied."""
        cell = self._cell(point)
        for row, half in _disc(clearance):
            middle = cell + row * self._width
            self._taken[middle - half : middle + half + 1] = b"\1" * (2 * half + 1)

    def _cell(self, point: Point) -> int:
        x, y = point
        return (int(y * _CELLS) + self._border) * self._width + int(x * _CELLS) + self._border


@cache
def _disc(clearance: float) -> list[tuple[int, int]]:
    """Return the rows of a disc, relative to its centre, and half the width of each, in cells."""
    radius = _CELLS * clearance
    return [(row, int(math.sqrt(radius**2 - row**2))) for row in range(-int(radius), int(radius) + 1)]


def draw_scene(scenery: Scenery, label: int, random: Random) -> Scene:
    """Draw a random scene with this label."""
    while True:
        near, far = _Map(), _Map()
        long = [_placed(scenery.dashes, near, far, random) for _ in range(2)]
        if long[0] is None or long[1] is None:
            continue
        dots = _dots(long[0], long[1], label, random)
        if dots is not None:
            break
    others = [_placed(max(1, scenery.dashes // 3), near, far, random) for _ in range(scenery.distractors)]
    return Scene(tuple(contour for contour in (*long, *others) if contour is not None), dots, label)


def _placed(dashes: int, near: _Map, far: _Map, random: Random) -> list[Point] | None:
    """Place a contour away from the others, and add it to both maps; None: no place was found."""
    for _ in range(_ATTEMPTS):
        contour = _contour(dashes, near, far, random)
        if contour is not None:
            for start, end in itertools.pairwise(contour):
                for point in _along(start, end):
                    near.take(point, CLEARANCE)
                far.take(end, END_CLEARANCE)
            for end in (contour[0], contour[-1]):
                near.take(end, END_CLEARANCE)
                far.take(end, END_CLEARANCE)
            return contour
    return None


def _contour(dashes: int, near: _Map, far: _Map, random: Random) -> list[Point] | None:
    """Draw the nodes of a curve that avoids occupied cells, itself and the border; None: it got stuck."""
    nodes = [(random.uniform(_MARGIN, SIZE - _MARGIN), random.uniform(_MARGIN, SIZE - _MARGIN))]
    if far.has(nodes[0]):
        return None
    heading = random.uniform(0, 2 * math.pi)
    own: list[Point] = []  # its points, without the last two dashes, which are necessarily near
    for number in range(1, dashes + 1):
        others = far if number == dashes else near
        for _ in range(_TRIES):
            turned = heading + random.uniform(-_TURN, _TURN)
            (x, y), pitch = nodes[-1], DASH + GAP
            end = (x + pitch * math.cos(turned), y + pitch * math.sin(turned))
            if min(end) >= _MARGIN and max(end) <= SIZE - _MARGIN:
                points = _along(nodes[-1], end)
                if not any(others.has(point) for point in points) and not _are_near(points, own):
                    break
        else:
            return None
        heading = turned
        nodes.append(end)
        if number > 2:
            own += _along(nodes[-4], nodes[-3])
    return nodes


def _are_near(points: list[Point], others: list[Point]) -> bool:
    return any((x - other_x) ** 2 + (y - other_y) ** 2 < CLEARANCE**2 for x, y in points for other_x, other_y in others)


def _along(start: Point, end: Point) -> list[Point]:
    """Return the midpoint between two nodes, and the second node: close enough that no contour can cross."""
    return [((start[0] + end[0]) / 2, (start[1] + end[1]) / 2), end]


def _dots(one: list[Point], other: list[Point], label: int, random: Random) -> tuple[Point, Point] | None:
    """Choose ends of one contour or of both, with about the same distance for either label; None: impossible."""
    if random.random() < 0.5:
        one, other = other, one
    same = (one[0], one[-1])
    distance = math.dist(*same)
    pairs = [(a, b) for a in same for b in (other[0], other[-1])]
    both = min(pairs, key=lambda pair: abs(math.dist(*pair) - distance))
    if distance < _NEAREST or abs(math.dist(*both) - distance) > _TOLERANCE:
        return None
    return same if label else both


def to_picture(scene: Scene, side: int) -> np.ndarray:
    """Render a scene as grey levels (side, side) uint8: white dashes and dots on black."""
    scale = _FINER * side / SIZE
    picture = Image.new("L", (_FINER * side, _FINER * side))
    pen = ImageDraw.Draw(picture)
    for contour in scene.contours:
        for (x, y), (to_x, to_y) in itertools.pairwise(contour):
            dash = DASH / (DASH + GAP)
            stop = (scale * (x + dash * (to_x - x)), scale * (y + dash * (to_y - y)))
            pen.line([scale * x, scale * y, *stop], fill=255, width=max(1, round(scale * WIDTH)))
    for x, y in scene.dots:
        pen.ellipse([scale * (x - DOT), scale * (y - DOT), scale * (x + DOT), scale * (y + DOT)], fill=255)
    return np.asarray(picture.reduce(_FINER))


def pictures(scenery: Scenery, side: int, number: int, seed: str, what: str) -> Iterator[tuple[bytes, int]]:
    """Yield pictures as side * side bytes, row by row, with their labels; they are generated on all processor cores.

    Each consecutive pair has one picture with label 1. A picture depends only on ``seed``, its index and ``scenery``.

    Args:
        scenery: the contents of the scenes.
        side: height and width in pixels.
        number: number of pictures.
        seed: determines the pictures.
        what: label of the progress bar.
    """
    pieces = range(-(-number // (2 * _DRAWN_TOGETHER)))
    with bar(f"Pathfinder, {what}", number) as progress:
        for piece, drawn in enumerate(in_order(partial(_draw, scenery, side, seed), pieces)):
            for one in drawn[: number - 2 * _DRAWN_TOGETHER * piece]:
                progress.update()
                yield one


def _draw(scenery: Scenery, side: int, seed: str, piece: int) -> list[tuple[bytes, int]]:
    """Draw some pairs of pictures; they depend only on the piece's number, not on the process."""
    found = []
    for pair in range(piece * _DRAWN_TOGETHER, (piece + 1) * _DRAWN_TOGETHER):
        random = Random(f"{seed} {pair}")
        first = random.randrange(2)
        for label in (first, 1 - first):
            found.append((to_picture(draw_scene(scenery, label, random), side).tobytes(), label))
    return found
