"""Pathfinder: labels by tracing the drawn contours, balance, no shortcut by distance, the same pictures everywhere."""

import itertools
import math
from random import Random

import numpy as np
import pytest
from scipy import ndimage

from dl_proj.experiments.long_range import parallel, pathfinder
from dl_proj.experiments.long_range.pathfinder import DOT, GAP, SIZE, Scenery, draw_scene, pictures, to_picture

PAPER = Scenery(dashes=14, distractors=6)
FINE = 512  # pixels a side
UNIT = FINE / SIZE


@pytest.fixture(scope="module")
def scenes():
    random = Random(0)
    return [draw_scene(PAPER, number % 2, random) for number in range(160)]


def pixels_of(dots):
    return [(int(y * UNIT), int(x * UNIT)) for x, y in dots]


def are_joined(ink, dots):
    """Whether a flood from one dot reaches the other."""
    areas, _ = ndimage.label(ink, structure=np.ones((3, 3)))
    one, other = (areas[place] for place in pixels_of(dots))
    assert one
    assert other
    return one == other


def undashed(scene):
    """The contours as lines without gaps, a unit wide, drawn by filling squares: not as the generator draws."""
    ink = np.zeros((FINE, FINE), dtype=bool)
    for contour in scene.contours:
        for (x, y), (to_x, to_y) in itertools.pairwise(contour):
            for share in np.linspace(0, 1, 80):
                row, column = UNIT * (y + share * (to_y - y)), UNIT * (x + share * (to_x - x))
                half = UNIT / 2
                ink[int(row - half) : int(row + half) + 1, int(column - half) : int(column + half) + 1] = True
    return ink


def test_a_flood_along_the_undashed_contours_finds_the_label(scenes):
    assert [are_joined(undashed(scene), scene.dots) for scene in scenes] == [bool(scene.label) for scene in scenes]


def test_the_picture_alone_tells_the_label(scenes):
    """Dashes grow by a little more than half a gap, which joins those of one contour and no others."""
    grown = (GAP / 2 + 0.15) * UNIT
    for scene in scenes:
        ink = ndimage.distance_transform_edt(to_picture(scene, FINE) < 128) <= grown
        for row, column in pixels_of(scene.dots):
            assert ink[row, column]
        assert are_joined(ink, scene.dots) == bool(scene.label)


def test_a_picture_has_its_parts(scenes):
    for scene in scenes:
        one, other, *short = scene.contours
        assert len(one) == len(other) == 15
        assert {len(contour) for contour in short} <= {5}
        assert len(short) <= 6
        ends = {tuple(contour[end]) for contour in (one, other) for end in (0, -1)}
        assert {*scene.dots} <= ends
        same = sum({*scene.dots} == {contour[0], contour[-1]} for contour in (one, other))
        assert same == scene.label
    assert np.mean([len(scene.contours) for scene in scenes]) > 5
    picture = to_picture(scenes[0], 64)
    (x, y), half = scenes[0].dots[0], DOT / 2
    inside = picture[round(2 * (y - half)) : round(2 * (y + half)), round(2 * (x - half)) : round(2 * (x + half))]
    assert (inside == 255).all()
    assert picture.shape == (64, 64)
    assert 0.05 < (picture > 127).mean() < 0.4


def test_the_distance_of_the_dots_does_not_tell_the_label(scenes):
    """Of each scene the other answer has dots as far apart; a threshold is right no more often than on any labels."""
    apart, labels = np.array([math.dist(*scene.dots) for scene in scenes]), np.array([s.label for s in scenes])
    for scene, distance in zip(scenes, apart, strict=True):
        one, other = ((contour[0], contour[-1]) for contour in scene.contours[:2])
        pairs = [one, other] if scene.label == 0 else itertools.product(one, other)
        assert min(abs(math.dist(*pair) - distance) for pair in pairs) <= 1.5

    def best(labels):
        right = [((apart > threshold) == labels).mean() for threshold in apart]
        return max(*right, 1 - min(right))

    by_chance = [best(np.random.default_rng(seed).permutation(labels)) for seed in range(100)]
    assert best(labels) <= max(by_chance)
    assert apart.min() > 4


def test_pictures_depend_on_seed_and_place_alone(monkeypatch):
    number = 131
    monkeypatch.setattr(parallel, "_FEW", 2)
    made = list(pictures(PAPER, 16, number, "0 train", "test"))
    monkeypatch.setattr(parallel.os, "sched_getaffinity", lambda process: {0})  # in this process
    assert list(pictures(PAPER, 16, number, "0 train", "test")) == made
    assert len(made) == number
    labels = [label for _, label in made]
    assert all(one + other == 1 for one, other in zip(labels[::2], labels[1::2], strict=False))  # one of each two
    assert 0 < sum(labels[::2]) < len(labels[::2])  # in either order
    assert len({pixels for pixels, _ in made}) == number
    other = list(pictures(PAPER, 16, 20, "0 test", "test"))
    assert not {*other} & {*made}


@pytest.mark.parametrize("scenery", [Scenery(4, 0), Scenery(16, 20)], ids=["least", "most"])
def test_the_smallest_and_the_fullest_scenes_can_be_drawn(scenery):
    scene = draw_scene(scenery, 1, Random(1))
    assert len(scene.contours[0]) == scenery.dashes + 1
    assert are_joined(undashed(scene), scene.dots)
    assert pathfinder.to_picture(scene, 128).shape == (128, 128)
