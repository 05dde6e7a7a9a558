import numpy as np
import pytest

from engine.starter.render import Window, joints_of, render
from engine.starter.staging import stage
from engine.starter.tracing import CAMERA_HEIGHT, CENTRE, COS_PITCH, FAR, FOCAL, PX, PZ, SCALE, SIN_PITCH
from engine.starter.world import OBJECTS, PERSON, POSES, SETTINGS, Scene, Thing, sample_scene

SIZE = 128


def alone(kind: str, setting: str = "meadow", seed: int = 3, pose: str | None = None) -> Scene:
    return Scene(things=(Thing(kind=kind, colour="red", pose=pose),), setting=setting, seed=seed)


def rays(camera: np.ndarray, size: int) -> np.ndarray:
    """Unit directions (size, size, 3) through the pixels' middles, in the world's coordinates."""
    u, v = np.meshgrid((np.arange(size) + 0.5) / size - 0.5, 0.5 - (np.arange(size) + 0.5) / size)
    right = np.array([1.0, 0.0, 0.0])
    up = np.array([0.0, camera[COS_PITCH], -camera[SIN_PITCH]])
    ahead = np.array([0.0, -camera[SIN_PITCH], -camera[COS_PITCH]])
    directions = u[..., None] * right + v[..., None] * up + camera[FOCAL] * ahead
    return directions / np.linalg.norm(directions, axis=-1, keepdims=True)


def to_camera(world: np.ndarray, camera: np.ndarray) -> np.ndarray:
    x, y, z = np.moveaxis(world, -1, 0)
    s, c = camera[SIN_PITCH], camera[COS_PITCH]
    return np.stack([x, c * y - s * z, s * y + c * z], axis=-1)


def test_same_scene_gives_same_bytes() -> None:
    scene = sample_scene(np.random.default_rng(5))
    first, second = render(scene, SIZE), render(scene, SIZE)
    for name in ("image", "depth", "normals", "segmentation"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()


def test_shapes_and_types() -> None:
    result = render(alone("mug"), SIZE)
    assert (result.image.shape, result.image.dtype) == ((SIZE, SIZE, 3), np.uint8)
    assert (result.depth.shape, result.depth.dtype) == ((SIZE, SIZE), np.float32)
    assert (result.normals.shape, result.normals.dtype) == ((SIZE, SIZE, 3), np.float32)
    assert (result.segmentation.shape, result.segmentation.dtype) == ((SIZE, SIZE), np.uint8)
    assert result.joints is None


def test_ball_has_the_depth_and_normals_of_a_sphere() -> None:
    scene = alone("ball")
    result = render(scene, SIZE)
    camera, things, _, _ = stage(scene)
    row = things[0]
    radius = 0.5 * row[SCALE]
    centre = np.array([row[PX], row[CENTRE + 1] * row[SCALE], row[PZ]]) - (0, CAMERA_HEIGHT, 0)
    directions = rays(camera, SIZE)
    along = directions @ centre
    inside = along**2 - centre @ centre + radius**2
    ball = (result.segmentation == 2) & (inside > 0.02)
    expected = along - np.sqrt(np.maximum(inside, 0))
    assert ball.sum() > 1000
    np.testing.assert_allclose(result.depth[ball], expected[ball], atol=0.01)

    world = (directions * expected[..., None] - centre) / radius
    np.testing.assert_allclose(result.normals[ball], to_camera(world, camera)[ball], atol=0.02)


@pytest.mark.parametrize("setting", SETTINGS)
def test_normals_are_unit_and_match_the_depth_of_the_ground(setting: str) -> None:
    scene = alone("box", setting)
    result = render(scene, SIZE)
    np.testing.assert_allclose(np.linalg.norm(result.normals, axis=-1), 1.0, atol=1e-5)
    camera, *_ = stage(scene)
    points = rays(camera, SIZE) * result.depth[..., None].astype(np.float64)
    ground = result.segmentation[-24:] == 1
    normal = np.cross(np.diff(points, axis=1)[:-1], -np.diff(points, axis=0)[:, :-1])[-23:]
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    flat = ground[1:, 1:] & ground[:-1, :-1] & ground[1:, :-1] & ground[:-1, 1:]
    assert flat.sum() > 500
    np.testing.assert_allclose(to_camera(normal, camera)[flat], result.normals[-23:, 1:][flat], atol=0.02)


def test_things_are_whole_and_on_their_side() -> None:
    rng = np.random.default_rng(7)
    for _ in range(120):
        scene = sample_scene(rng)
        result = render(scene, 64)
        assert result.depth.max() <= FAR
        for index, thing in enumerate(scene.things):
            rows, columns = np.nonzero(result.segmentation == index + 2)
            assert len(rows) > 60, scene
            assert 0 < min(rows.min(), columns.min()) < max(rows.max(), columns.max()) < 63, scene
            middle = (columns.min() + columns.max()) / 2
            assert {"left": middle < 28, "centre": 24 < middle < 40, "right": middle > 36}[thing.side], scene


def test_two_things_do_not_overlap() -> None:
    rng = np.random.default_rng(8)
    scenes = [scene for scene in (sample_scene(rng) for _ in range(150)) if len(scene.things) == 2]
    for scene in scenes:
        segmentation = render(scene, 64).segmentation
        assert np.nonzero(segmentation == 2)[1].max() < np.nonzero(segmentation == 3)[1].min(), scene


@pytest.mark.parametrize("kind", OBJECTS)
def test_single_objects_are_large(kind: str) -> None:
    rows, columns = np.nonzero(render(alone(kind, "studio"), 64).segmentation == 2)
    assert np.ptp(rows) >= 0.4 * 64 or np.ptp(columns) >= 0.5 * 64


@pytest.mark.parametrize("pose", POSES)
def test_joints_lie_inside_the_person(pose: str) -> None:
    for seed in range(6):
        result = render(alone(PERSON, "snow", seed, pose), SIZE)
        assert result.joints is not None
        assert result.joints.shape == (18, 3)
        x, y = np.floor(result.joints[:, :2]).astype(int).T
        assert (result.segmentation[y, x] == 2).all()
        # A person who faces the camera has the right wrist at the picture's left.
        if pose in ("arms out", "arms up"):
            assert result.joints[4, 0] < result.joints[7, 0]


def test_a_window_shows_the_same_things_larger() -> None:
    scene = alone("ball")
    whole = render(scene, 2 * SIZE)
    part = render(scene, SIZE, Window(left=0.25, top=0.375, side=0.5))
    inside = np.s_[3 * SIZE // 4 : 7 * SIZE // 4, SIZE // 2 : 3 * SIZE // 2]
    for name in ("depth", "normals", "segmentation"):
        np.testing.assert_allclose(getattr(part, name), getattr(whole, name)[inside], rtol=1e-4, atol=1e-4)


def test_the_joints_of_a_window_are_where_it_shows_them() -> None:
    scene = alone(PERSON, pose="waving")
    window = Window(left=0.25, top=0.125, side=0.5)
    whole, part = joints_of(scene, 2 * SIZE), render(scene, SIZE, window).joints
    assert whole is not None
    assert part is not None
    np.testing.assert_allclose(part[:, :2], whole[:, :2] - (SIZE / 2, SIZE / 4), atol=1e-3)
    np.testing.assert_array_equal(part[:, 2], whole[:, 2])
