"""Soft edges, scribbles, line art and straight lines on pictures whose lines are known."""

import cv2
import numpy as np
import pytest
from PIL import Image

from engine.controls import edges, lines

SIDE_PX = 512


def step(side_px: int = SIDE_PX) -> Image.Image:
    """Dark on the left, light on the right of the middle."""
    pixels = np.full((side_px, side_px, 3), 40, np.uint8)
    pixels[:, side_px // 2 :] = 200
    return Image.fromarray(pixels)


def test_a_soft_edge_is_brightest_at_the_step_and_fades_to_both_sides_alike() -> None:
    row = np.asarray(edges.soft_edges(step(), softness=2))[SIDE_PX // 2, :, 0].astype(int)
    middle = SIDE_PX // 2
    assert row[middle] == row.max() == 255
    np.testing.assert_allclose(row[middle - 20 : middle], row[middle : middle + 20][::-1], atol=1)
    assert row[middle + 20] == row[middle - 40] == 0


def test_widths_grow_with_the_picture() -> None:
    lit = [(np.asarray(edges.soft_edges(step(side), softness=2))[9, :, 0] > 128).sum() for side in (256, 512, 1024)]
    np.testing.assert_allclose(lit, [lit[1] / 2, lit[1], 2 * lit[1]], atol=2)


def test_two_colours_of_one_brightness_have_an_edge_between_them() -> None:
    pixels = np.full((128, 128, 3), (200, 100, 0), np.uint8)
    pixels[:, 64:] = (49, 178, 0)  # the same grey by Rec. 601
    assert np.asarray(edges.soft_edges(Image.fromarray(pixels), softness=2))[64, 64, 0] == 255


def test_a_scribble_of_a_disc_is_its_outline_as_wide_as_the_pen() -> None:
    canvas = cv2.circle(np.full((SIDE_PX, SIDE_PX, 3), 230, np.uint8), (256, 256), 150, (30, 60, 90), -1)
    drawn = np.asarray(edges.scribble(Image.fromarray(canvas), width=9, detail=0.5))[:, :, 0] > 0
    y, x = np.nonzero(drawn)
    distances = np.hypot(x - 256, y - 256)
    np.testing.assert_allclose(distances, 150, atol=9)
    assert drawn.sum() == pytest.approx(2 * np.pi * 150 * 9, rel=0.25)


def test_line_art_inks_what_is_darker_than_around() -> None:
    canvas = cv2.line(np.full((SIDE_PX, SIDE_PX, 3), 220, np.uint8), (100, 100), (400, 300), (20, 20, 20), 4)
    inked = np.asarray(edges.line_art(Image.fromarray(canvas), width=6))[:, :, 0]
    assert inked[200, 250] > 100
    assert inked[cv2.dilate((canvas[:, :, 0] < 128).astype(np.uint8), np.ones((41, 41))) == 0].max() < 8


def test_the_sides_of_a_box_are_found_in_pixels_of_the_picture() -> None:
    box = (150, 90, 650, 410)  # left, top, right, bottom, of a picture 800 px wide
    canvas = np.full((500, 800, 3), 210, np.uint8)
    cv2.rectangle(canvas, box[:2], box[2:], (60, 40, 30), -1)

    found = lines.find_lines(Image.fromarray(canvas), min_score=0.05, min_length=60)

    for axis, across, side in (
        (0, box[1], (box[0], box[2])),
        (0, box[3], (box[0], box[2])),
        (1, box[0], (box[1], box[3])),
    ):
        along = found[np.abs(found[:, :, 1 - axis] - across).max(axis=1) < 10, :, axis]
        covered = np.minimum(along.max(axis=1), side[1]) - np.maximum(along.min(axis=1), side[0])
        assert covered.max() > 0.9 * (side[1] - side[0])


def test_longer_and_surer_lines_are_fewer() -> None:
    canvas = cv2.rectangle(np.full((400, 400, 3), 210, np.uint8), (60, 60), (340, 340), (60, 40, 30), -1)
    image = Image.fromarray(canvas)
    everything = len(lines.find_lines(image, min_score=0.02, min_length=0))
    assert everything > len(lines.find_lines(image, min_score=0.3, min_length=0)) > 0
    assert len(lines.find_lines(image, min_score=0.02, min_length=700)) == 0
