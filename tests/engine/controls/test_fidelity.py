"""Measures of how well a map was kept, in closed form."""

import numpy as np
import pytest
from PIL import Image

from engine.controls.ade20k import coloured
from engine.controls.fidelity import (
    MEASURES,
    class_miou,
    depth_correlation,
    edge_f1,
    normal_median_deg,
    pose_pck,
    relief_kept_deg,
)
from engine.controls.geometry import normal_map
from engine.samples import SAMPLES_FOLDER


def column(x: int, side_px: int = 64) -> Image.Image:
    pixels = np.zeros((side_px, side_px), np.uint8)
    pixels[:, x] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", MEASURES)
def test_a_map_keeps_itself_best(kind: str) -> None:
    folder = {"depth": "depth", "normal": "normal"}.get(kind, "openpose")
    map_ = Image.open(SAMPLES_FOLDER / "subjects" / "person" / folder / "00.png").convert("RGB")
    measure = MEASURES[kind]
    assert measure.between(map_, map_) == pytest.approx(measure.best, abs=0.1 if kind == "normal" else 1e-9)
    assert measure.method != ""


@pytest.mark.parametrize(("shift_px", "f1"), [(0, 1.0), (2, 1.0), (3, 0.0)])
def test_edges_count_within_two_pixels(shift_px: int, f1: float) -> None:
    assert edge_f1(column(20), column(20 + shift_px)) == pytest.approx(f1)


def test_edges_that_are_half_missing_or_doubled() -> None:
    both = Image.fromarray(np.maximum(np.asarray(column(10)), np.asarray(column(50))))
    assert edge_f1(both, column(10)) == pytest.approx(2 / 3)  # recall a half, precision one
    assert edge_f1(column(10), both) == pytest.approx(2 / 3)
    assert edge_f1(column(10), Image.new("L", (64, 64))) == 0


def test_depth_knows_no_scale_and_no_shift_but_which_is_nearer() -> None:
    slope = np.tile(np.arange(100, dtype=np.uint8), (50, 1))
    one = Image.fromarray(slope)
    assert depth_correlation(one, Image.fromarray(2 * slope + 30)) == pytest.approx(1)
    assert depth_correlation(one, Image.fromarray(200 - slope)) == pytest.approx(-1)
    assert depth_correlation(one, Image.new("L", one.size, 90)) == 0


def test_depth_of_two_halves_is_the_correlation_of_two_bits() -> None:
    """Two bits that agree on three quarters of the pixels correlate by a half."""
    bits = np.repeat(np.array([0, 0, 1, 1], np.uint8) * 255, 16)[None].repeat(64, axis=0)
    other = bits.copy()
    other[:32, :16], other[:32, 48:] = 255, 0
    assert depth_correlation(Image.fromarray(bits), Image.fromarray(other)) == pytest.approx(0.5)


def test_areas_shifted_by_a_quarter() -> None:
    """Halves whose border moved from 32 to 48 of 64: 32 / 48 and 16 / 32."""
    classes = np.zeros((64, 64), int)
    asked, found = classes.copy(), classes.copy()
    asked[:, 32:], found[:, 48:] = 12, 12
    assert class_miou(coloured(asked), coloured(found)) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert class_miou(coloured(asked), coloured(asked + 20)) == 0


@pytest.mark.parametrize("angle_deg", [0, 11.25, 30, 90])
def test_normals_turned_by_an_angle(angle_deg: float) -> None:
    angle = np.radians(angle_deg)
    straight = np.tile(np.array([0.0, 0.0, 1.0]), (8, 8, 1))
    turned = np.tile(np.array([np.sin(angle), 0.0, np.cos(angle)]), (8, 8, 1))
    assert normal_median_deg(normal_map(straight), normal_map(turned)) == pytest.approx(angle_deg, abs=0.7)


def towards(angle_deg: float) -> np.ndarray:
    """The normal of a wall turned to the right."""
    return np.array([np.sin(np.radians(angle_deg)), 0, np.cos(np.radians(angle_deg))])


def test_normals_of_plain_walls_do_not_count() -> None:
    """A tenth of one map is turned by 40 degrees, another tenth of the other by 20: half of what counts by each."""
    asked, found = np.tile(towards(0), (20, 20, 1)), np.tile(towards(0), (20, 20, 1))
    assert relief_kept_deg(normal_map(asked), normal_map(found)) == 0
    asked[:2], found[-2:] = towards(40), towards(20)
    assert relief_kept_deg(normal_map(asked), normal_map(found)) == pytest.approx(30, abs=1)


def test_a_ground_that_was_not_asked_for_is_half_of_what_counts() -> None:
    """A thing before a wall is kept to the degree, on a ground turned by 80 degrees that is nine times as large."""
    asked = np.tile(towards(0), (20, 20, 1))
    found = np.tile(towards(80), (20, 20, 1))
    asked[:2] = found[:2] = towards(40)
    assert relief_kept_deg(normal_map(asked), normal_map(found)) == pytest.approx(40, abs=1)
    assert relief_kept_deg(normal_map(found), normal_map(asked)) == pytest.approx(40, abs=1)


def test_normals_outside_the_mask_do_not_count() -> None:
    one, other = (np.tile(np.array([x, 0.0, 1.0]), (8, 8, 1)) for x in (0.0, 0.0))
    other[:, 4:] = (1.0, 0.0, 0.0)
    mask = np.zeros((8, 8), bool)
    mask[:, :3] = True
    assert normal_median_deg(normal_map(one), normal_map(other), mask) == pytest.approx(0, abs=0.1)


def person(x: float = 0.0) -> np.ndarray:
    """Eighteen joints down a line 100 px long."""
    return np.column_stack([np.full(18, x), np.linspace(0, 100, 18), np.ones(18)])


def test_joints_count_within_a_tenth_of_the_person() -> None:
    assert pose_pck([person()], [person()]) == 1
    assert pose_pck([person()], [person(9.9)]) == 1
    assert pose_pck([person()], [person(10.1)]) == 0
    moved = person()
    moved[:9, 0] += 50
    assert pose_pck([person()], [moved]) == pytest.approx(0.5)


def test_everyone_is_compared_with_whoever_fits() -> None:
    assert pose_pck([person(), person(300)], [person(301), person(1)]) == 1
    assert pose_pck([person(), person(300)], [person(1)]) == pytest.approx(0.5)
    assert pose_pck([person()], []) == 0


def test_unseen_joints_do_not_count() -> None:
    half_seen = person()
    half_seen[:6, 2] = 0.1
    moved = person()
    moved[:6, 0] += 50
    assert pose_pck([half_seen], [moved]) == 1
    unsure = person()
    unsure[:9, 2] = 0.2
    assert pose_pck([person()], [unsure]) == pytest.approx(0.5)
