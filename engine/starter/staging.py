"""From a scene's names and seed to the rows of numbers that the tracer reads: shapes, places, joints, light and hues.

Knows nothing about how they are traced.
"""

import math

import numpy as np

from engine.starter.tracing import (
    ACCENT,
    AMBIENT,
    BACK_A,
    BACK_B,
    BACKDROP_COLUMNS,
    BALL,
    BEACH,
    BOOT,
    BOTTLE,
    BOUNCE,
    BOWL,
    BOX,
    BRICK,
    CACTUS,
    CAMERA_HEIGHT,
    CAR,
    CELL,
    CENTRE,
    CHAIR,
    CHICKEN,
    COLOUR,
    COLUMNS,
    COS,
    COS_PITCH,
    COVE,
    FOCAL,
    GROUND_A,
    GROUND_B,
    HAIR_RGB,
    HALF,
    HAT,
    HEAD,
    HILL_A,
    HILL_B,
    HUMAN,
    KEY,
    KIND,
    LAMP,
    LEFT_HAND,
    LEFT_TOE,
    LEGS_RGB,
    LIGHT_DIR,
    LOWER,
    MEADOW,
    MOON_X,
    MOON_Y,
    MUG,
    NIGHT,
    PATTERN,
    PHASE,
    PHASE_A,
    PHASE_B,
    POOL_X,
    POOL_Z,
    PX,
    PZ,
    RIGHT_HAND,
    RIGHT_TOE,
    SCALE,
    SETTING,
    SHORE,
    SIN,
    SIN_PITCH,
    SKIN_RGB,
    SNOW,
    SOFA,
    STOOL,
    STUDIO,
    TABLE,
    TEAPOT,
    VASE,
    WALL_Z,
    Grids,
    Q,
    catalogue,
)
from engine.starter.world import CATALOGUE, COLOURS, OBJECTS, PATTERNS, PERSON, SETTINGS, Scene, Thing

_KINDS = (*OBJECTS, PERSON)


def stage(scene: Scene, grids: Grids | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The rows that the tracer reads: camera, things (n, COLUMNS), joints (n, 24, 3), backdrop.

    `grids` are in the catalogue's stead.
    """
    grids = grids or catalogue()
    rng = np.random.default_rng(scene.seed)
    setting = SETTINGS.index(scene.setting)
    has_wall = setting in (STUDIO, TABLE, BRICK)
    horizon_y = rng.uniform(0.08, 0.24) if has_wall else rng.uniform(0.26, 0.38)
    focal = rng.uniform(1.25, 1.6)
    pitch = math.atan((0.5 - horizon_y) / focal)
    camera = np.array([focal, math.sin(pitch), math.cos(pitch)])

    things = np.zeros((len(scene.things), COLUMNS))
    joints = np.zeros((len(scene.things), 24, 3))
    for index, thing in enumerate(scene.things):
        own = np.random.default_rng((scene.seed, index))
        _shape_thing(things[index], joints[index], thing, grids, own)
        hull = _hull(things[index], joints[index], grids)
        _place_thing(things[index], hull, thing, len(scene.things) == 2, camera, own)
    return camera, things, joints, _dress(setting, rng, camera, things)


def _shape_thing(row: np.ndarray, joints: np.ndarray, thing: Thing, grids: Grids, rng: np.random.Generator) -> None:
    kind = _KINDS.index(thing.kind)
    row[KIND], row[PATTERN], row[PHASE] = kind, PATTERNS.index(thing.pattern), rng.uniform(0, 1)
    row[COLOUR : COLOUR + 3] = _linear(np.array(COLOURS[thing.colour]) + rng.normal(0, 2.5) + rng.normal(0, 1.5, 3))
    row[ACCENT : ACCENT + 3] = _linear(_accent(thing.colour, rng))
    row[SKIN_RGB : SKIN_RGB + 3] = _linear(_SKIN[rng.integers(len(_SKIN))])
    row[HAIR_RGB : HAIR_RGB + 3] = _linear(_HAIR[rng.integers(len(_HAIR))])
    row[LEGS_RGB : LEGS_RGB + 3] = _linear(_LEGS[rng.integers(len(_LEGS))])
    low, high = np.array(_PROPORTIONS[kind]).T
    row[Q : Q + len(low)] = rng.uniform(low, high)
    if thing.kind in CATALOGUE:
        index = CATALOGUE.index(thing.kind)
        row[Q + LOWER : Q + LOWER + 3] = grids["lower"][index]
        row[Q + CELL : Q + CELL + 3] = grids["cell"][index]
    yaw = _yaw(kind, thing.pose, rng)
    row[COS], row[SIN] = math.cos(yaw), math.sin(yaw)
    if thing.pose is not None:
        joints[:] = _skeleton(thing.pose, rng)


_SKIN = ((255, 219, 188), (241, 194, 154), (224, 172, 122), (198, 134, 86), (141, 85, 52), (100, 62, 42))
_HAIR = ((34, 26, 24), (62, 40, 26), (104, 66, 38), (150, 100, 52), (206, 164, 92), (150, 70, 36))
_LEGS = ((38, 44, 72), (48, 48, 54), (40, 62, 104), (66, 60, 58))

# Ranges of each kind's proportions q, in the order that its distance function reads them.
_PROPORTIONS = (
    ((0.36, 0.44), (0.0, 0.14), (0.22, 0.27)),  # mug: radius, taper, handle
    ((0.17, 0.205), (0.50, 0.60), (0.060, 0.075)),  # bottle: radius, shoulder, neck
    ((0.15, 0.20), (0.28, 0.37), (0.40, 0.55), (0.11, 0.17), (0.17, 0.24)),  # vase: foot, belly, its height, neck, lip
    ((0.58, 0.66), (0.72, 0.92)),  # bowl: radius, depth
    ((0.42, 0.52), (0.36, 0.46), (0.34, 0.46)),  # box: half width, half height, half depth
    ((0.32, 0.38), (0.17, 0.24), (0.48, 0.56)),  # lamp: shade below, above, its lower edge
    ((0.24, 0.28), (0.40, 0.46), (0.0, 0.10)),  # chair: half width, seat height, recline
    ((0.38, 0.43), (0.30, 0.36)),  # teapot: body across, up
    ((0.5, 0.5),),  # ball: radius
    ((0.70, 0.78), (0.36, 0.42), (-0.12, 0.0)),  # car: half length, half cabin, its place
    ((0.13, 0.16), (0.42, 0.58), (0.52, 0.66), (-1.0, 1.0)),  # cactus: radius, left arm, right arm, which is lower
    ((0.30, 0.34), (0.36, 0.44), (0.56, 0.66)),  # hat: crown, its height, brim
    *(((0.9, 1.1),) * 3 for _ in CATALOGUE),  # catalogue: width, height, depth against the model's
    ((0.0, 1.0), (0.0, 1.0)),  # person: long hair if > 0.5, short sleeves if > 0.5
)


def _yaw(kind: int, pose: str | None, rng: np.random.Generator) -> float:
    side = 1 if rng.random() < 0.5 else -1
    if pose == "walking":
        return side * rng.uniform(0.7, 1.2)
    if pose == "sitting":
        return side * rng.uniform(0.35, 0.75)
    if kind == HUMAN:
        return side * rng.uniform(0.0, 0.3)
    if kind in (MUG, TEAPOT, BOOT, CHICKEN):  # handle or profile stay in view, on either side
        return rng.uniform(-0.55, 0.55) + (math.pi if side < 0 else 0.0)
    if kind == CAR:
        return side * rng.uniform(0.3, 0.75) + (math.pi if rng.random() < 0.5 else 0.0)
    if kind in (BOX, CHAIR, SOFA):
        return side * rng.uniform(0.3, 0.7)
    if kind == CACTUS:
        return rng.uniform(-0.4, 0.4)
    return rng.uniform(-math.pi, math.pi)


def _accent(colour: str, rng: np.random.Generator) -> tuple[int, int, int]:
    """The second colour of a pattern: light on most things, dark on light ones."""
    if colour == "white":
        return (44, 46, 54)
    if colour == "black" or rng.random() < 0.75:
        return (250, 244, 230)
    return (40, 38, 42)


def _linear(rgb: np.ndarray | tuple[int, int, int]) -> np.ndarray:
    value = np.clip(np.asarray(rgb, dtype=np.float64) / 255, 0.0, 1.0)
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _hull(row: np.ndarray, joints: np.ndarray, grids: Grids) -> np.ndarray:
    """Points (n, 3) in the thing's own coordinates whose bounding box in any view is close to the thing's."""
    kind, q = int(row[KIND]), row[Q:]
    angles = np.arange(16) * (2 * math.pi / 16)
    circle = np.stack([np.cos(angles), np.zeros(16), np.sin(angles)], axis=1)

    def rings(*pairs: tuple[float, float]) -> np.ndarray:
        return np.concatenate([circle * radius + (0.0, y, 0.0) for y, radius in pairs])

    def corners(x: float, y0: float, y1: float, z: float) -> np.ndarray:
        return np.array([(sx * x, y, sz * z) for sx in (-1, 1) for y in (y0, y1) for sz in (-1, 1)])

    if kind == MUG:
        return np.concatenate([rings((0, q[0] * (1 - q[1])), (1, q[0])), [(q[0] + q[2] + 0.06, 0.52, 0)]])
    if kind == BOTTLE:
        return rings((0, q[0]), (q[1], q[0]), (1, q[2] + 0.02))
    if kind == VASE:
        return rings((0, q[0]), (q[2], q[1]), (1, q[4]))
    if kind == BOWL:
        return rings((0, q[0] * 0.5), (q[0] * q[1], q[0]), (0.5 * q[0] * q[1], q[0] * 0.86))
    if kind == BOX:
        return corners(q[0] + 0.03, 0, 2 * q[1], q[2] + 0.03)
    if kind == LAMP:
        return rings((0, 0.2), (q[2], q[0]), (1, q[1]))
    if kind == CHAIR:
        return np.concatenate([corners(q[0], 0, q[1], q[0]), [(x, 1.03, -q[0] - q[2]) for x in (-q[0], q[0])]])
    if kind == TEAPOT:
        return np.concatenate(
            [rings((0, q[0] * 0.6), (q[1], q[0])), [(0, 2 * q[1] + 0.16, 0), (-0.78, 0.62, 0), (0.68, 0.4, 0)]]
        )
    if kind == BALL:
        return np.concatenate([rings((0.5, 0.5), (0.15, 0.357), (0.85, 0.357)), [(0, 0, 0), (0, 1, 0)]])
    if kind == CAR:
        cabin = corners(q[1] * 0.8, 0.34, 0.6, 0.26) + np.array([q[2], 0, 0])
        return np.concatenate([corners(q[0], 0, 0.34, 0.35), cabin])
    if kind == CACTUS:
        tips = [(0, 1.03, 0), (-0.4, 0.6, 0), (0.4, 0.6, 0)]
        return np.concatenate([rings((0, 0.17), (0.3, 0.24), (0.95, 0.1)), tips])
    if kind == HAT:
        return rings((0, q[2]), (0.14, q[2]), (q[1], q[0] * 0.85))
    if kind != HUMAN:
        return grids["hulls"][kind - SOFA] * q[:3]
    reach = np.array([(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)])
    limbs = (joints[:STOOL, None] + 0.06 * reach).reshape(-1, 3)
    stool = corners(0.2, 0, joints[STOOL, 1], 0.18) if joints[STOOL, 1] > 0 else limbs[:0]
    return np.concatenate([limbs, joints[HEAD] + (0.13, 0.18, 0.14) * reach, stool])


def _place_thing(
    row: np.ndarray, hull: np.ndarray, thing: Thing, shared: bool, camera: np.ndarray, rng: np.random.Generator
) -> None:
    """Solves for place and scale, so that the thing covers the wanted part of the frame."""
    row[CENTRE : CENTRE + 3] = (hull.min(0) + hull.max(0)) / 2
    row[HALF : HALF + 3] = np.ptp(hull, axis=0) / 2 + (0.06 if thing.kind == PERSON else 0.03)

    if thing.kind == PERSON:
        height, width = rng.uniform(0.64, 0.74), 0.44 if shared else 0.8
    elif shared:
        height, width = rng.uniform(0.42, 0.52), rng.uniform(0.39, 0.43)
    else:
        height, width = rng.uniform(0.52, 0.66), rng.uniform(0.62, 0.74)
    if shared:
        centre_x = 0.5 + (0.232 + rng.uniform(0, 0.015)) * (-1 if thing.side == "left" else 1)
    elif thing.side == "centre":
        centre_x = 0.5 + rng.uniform(-0.05, 0.05)
    else:
        width = min(width, 0.50)
        centre_x = 0.5 + rng.uniform(0.19, 0.22) * (-1 if thing.side == "left" else 1)
    middle_y = 0.55 + rng.uniform(-0.02, 0.03)

    row[SCALE], row[PX], row[PZ] = 1.4, 0.0, -4.0
    focal = camera[FOCAL]
    for _ in range(12):
        x, y, depth = _project(_to_world(hull, row), camera)
        tall, wide = np.ptp(y), np.ptp(x)
        row[SCALE] *= min(height / tall, width / wide)
        row[PX] += (centre_x - (x.min() + x.max()) / 2) * depth.mean() / focal
        # The base moves down the picture by what the middle of the thing should.
        _, base_y, _ = _project(np.array([[row[PX], 0.0, row[PZ]]]), camera)
        row[PZ] = _ground_z(base_y[0] + middle_y - (y.min() + y.max()) / 2, camera)


def _to_world(points: np.ndarray, row: np.ndarray) -> np.ndarray:
    x, y, z = points.T
    turned = np.stack([row[COS] * x + row[SIN] * z, y, -row[SIN] * x + row[COS] * z], axis=1)
    return turned * row[SCALE] + (row[PX], 0.0, row[PZ])


def _project(points: np.ndarray, camera: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Picture x and y, in parts of the frame from its upper left, and depth along the optical axis."""
    focal, sin_pitch, cos_pitch = camera
    x, y, z = points[:, 0], points[:, 1] - CAMERA_HEIGHT, points[:, 2]
    depth = -sin_pitch * y - cos_pitch * z
    return 0.5 + focal * x / depth, 0.5 - focal * (cos_pitch * y - sin_pitch * z) / depth, depth


def _ground_z(picture_y: float, camera: np.ndarray) -> float:
    """Where the ground is seen at this height of the picture (below the horizon)."""
    focal, sin_pitch, cos_pitch = camera
    up = 0.5 - picture_y
    return CAMERA_HEIGHT * (-up * sin_pitch - focal * cos_pitch) / -(up * cos_pitch - focal * sin_pitch)


def project_joints(
    scene: Scene, camera: np.ndarray, things: np.ndarray, joints: np.ndarray, size: int
) -> np.ndarray | None:
    for index, thing in enumerate(scene.things):
        if thing.kind != PERSON:
            continue
        x, y, _ = _project(_to_world(joints[index, :18], things[index]), camera)
        visible = np.ones(18)
        # Turned sideways, the far eye and ear are hidden behind the face.
        turn = math.atan2(things[index][SIN], things[index][COS])
        for far, limit in ((14, -0.9), (16, -0.3)) if turn < 0 else ((15, 0.9), (17, 0.3)):
            visible[far] = abs(turn) < abs(limit)
        return np.stack([x * size, y * size, visible], axis=1).astype(np.float32)
    return None


def _skeleton(pose: str, rng: np.random.Generator) -> np.ndarray:
    """Joints (24, 3) of a person facing +z: OpenPose's 18, then head centre, hands, toes and seat.

    The person's right is -x. Arms are given by angles in degrees: out from hanging down, then forwards.
    """
    sitting = pose == "sitting"
    hip_y = 0.56 if sitting else 0.90
    joints = np.zeros((24, 3))
    neck = np.array([0.0, hip_y + 0.53, 0.0])
    joints[1], joints[HEAD] = neck, neck + np.array([0.0, 0.215, 0.03])
    nose_eyes_ears = [(0, -0.02, 0.135), (-0.05, 0.025, 0.105), (0.05, 0.025, 0.105), (-0.128, 0, 0), (0.128, 0, 0)]
    joints[[0, 14, 15, 16, 17]] = joints[HEAD] + np.array(nose_eyes_ears)
    joints[STOOL] = (0.0, hip_y - 0.13 if sitting else -1.0, 0.0)

    def jitter(low: float, high: float) -> float:
        return rng.uniform(low, high)

    def limb(out: float, forward: float, sign: int) -> np.ndarray:
        out, forward = math.radians(out), math.radians(forward)
        return np.array([sign * math.sin(out), -math.cos(out) * math.cos(forward), math.cos(out) * math.sin(forward)])

    raised = 1 if rng.random() < 0.5 else -1
    stride = 1 if rng.random() < 0.5 else -1
    for sign, (shoulder, elbow, wrist, hand), (hip, knee, ankle, toe) in (
        (-1, (2, 3, 4, RIGHT_HAND), (8, 9, 10, RIGHT_TOE)),
        (1, (5, 6, 7, LEFT_HAND), (11, 12, 13, LEFT_TOE)),
    ):
        swing = stride * sign
        if pose == "waving" and sign == raised:
            upper, lower = limb(jitter(95, 115), 0, sign), limb(jitter(165, 190), 0, sign)
        elif pose == "arms up":
            upper, lower = limb(jitter(138, 152), 0, sign), limb(jitter(160, 176), 0, sign)
        elif pose == "arms out":
            upper, lower = limb(jitter(82, 94), 0, sign), limb(jitter(84, 98), 0, sign)
        elif pose == "walking":
            upper, lower = limb(8, swing * jitter(26, 36), sign), limb(4, swing * 30 + jitter(28, 44), sign)
        elif sitting:
            upper, lower = limb(12, jitter(18, 26), sign), limb(-8, jitter(62, 74), sign)
        else:
            upper, lower = limb(jitter(12, 22), 0, sign), limb(jitter(2, 12), jitter(4, 14), sign)
        joints[shoulder] = neck + np.array([sign * 0.185, -0.045, 0.0])
        joints[elbow] = joints[shoulder] + 0.27 * upper
        joints[wrist] = joints[elbow] + 0.24 * lower
        joints[hand] = joints[wrist] + 0.06 * lower

        joints[hip] = (sign * 0.095, hip_y, 0.0)
        if sitting:
            thigh, shin = limb(8, 84, sign), limb(0, jitter(-6, 6), sign)
        elif pose == "walking":
            thigh = limb(0, -swing * jitter(24, 30), sign)
            shin = limb(0, -swing * 24 - (28 if swing > 0 else 2), sign)
        else:
            thigh, shin = limb(jitter(3, 7), 0, sign), limb(jitter(2, 5), 0, sign)
        joints[knee] = joints[hip] + 0.41 * thigh
        joints[ankle] = joints[knee] + 0.41 * shin
        joints[toe] = joints[ankle] + np.array([sign * 0.03, -0.035, 0.13])
    lowest = joints[[10, 13], 1].min()
    joints[:23, 1] += 0.075 - lowest
    joints[STOOL, 1] += 0.075 - lowest
    return joints


def _dress(setting: int, rng: np.random.Generator, camera: np.ndarray, things: np.ndarray) -> np.ndarray:
    """The backdrop's row: hues, light, and where wall, shore and moon are."""
    row = np.zeros(BACKDROP_COLUMNS)
    row[SETTING] = setting
    row[PHASE_A], row[PHASE_B] = rng.uniform(0, 100, 2)
    back = min(thing[PZ] - max(thing[HALF], thing[HALF + 2]) * thing[SCALE] for thing in things)
    row[WALL_Z] = min(_ground_z(rng.uniform(0.40, 0.52), camera), back - 0.35)
    row[COVE] = 1.2 if setting == STUDIO else 0.0
    horizon_y = 0.5 - camera[FOCAL] * camera[SIN_PITCH] / camera[COS_PITCH]
    row[SHORE] = _ground_z(horizon_y + rng.uniform(0.09, 0.14), camera)
    row[MOON_X], row[MOON_Y] = rng.choice((-1, 1)) * rng.uniform(0.16, 0.30), rng.uniform(0.13, 0.18)
    row[POOL_X], row[POOL_Z] = things[:, PX].mean(), things[:, PZ].mean()

    hues = _HUES[setting][rng.integers(len(_HUES[setting]))]
    for column, rgb in zip((GROUND_A, GROUND_B, BACK_A, BACK_B, HILL_A, HILL_B), hues, strict=True):
        row[column : column + 3] = _linear(np.array(rgb) + rng.normal(0, 3, 3))

    azimuth = rng.choice((-1, 1)) * rng.uniform(0.45, 1.05)
    elevation = rng.uniform(0.72, 1.0)
    row[LIGHT_DIR : LIGHT_DIR + 3] = (
        math.sin(azimuth) * math.cos(elevation),
        math.sin(elevation),
        math.cos(azimuth) * math.cos(elevation),
    )
    warmth = rng.uniform(-0.02, 0.07)
    key = np.array([1.0 + warmth, 1.0, 1.0 - warmth])
    if setting == NIGHT:
        row[KEY : KEY + 3], row[AMBIENT : AMBIENT + 3] = key * (1.03, 0.94, 0.82), (0.14, 0.17, 0.26)
    elif setting in (BEACH, MEADOW, SNOW):
        row[KEY : KEY + 3], row[AMBIENT : AMBIENT + 3] = 0.92 * key, (0.37, 0.40, 0.44)
    else:
        row[KEY : KEY + 3], row[AMBIENT : AMBIENT + 3] = 0.86 * key, (0.44, 0.44, 0.44)
    row[BOUNCE : BOUNCE + 3] = 0.30 * (0.4 + 0.6 * row[GROUND_A : GROUND_A + 3])
    return row


# Hues of each setting: ground, its second tone, background (or sky above), its second tone (or sky at the horizon),
# hills (or sea), their second tone (or foam).
_GREY = (128, 128, 128)
_HUES = (
    (  # studio: a seamless sheet of coloured paper
        ((226, 224, 220), _GREY, (214, 212, 210), _GREY, _GREY, _GREY),
        ((204, 217, 228), _GREY, (184, 202, 220), _GREY, _GREY, _GREY),
        ((232, 212, 204), _GREY, (226, 196, 188), _GREY, _GREY, _GREY),
        ((208, 220, 206), _GREY, (186, 206, 188), _GREY, _GREY, _GREY),
        ((236, 226, 204), _GREY, (228, 212, 182), _GREY, _GREY, _GREY),
    ),
    (  # table: planks, wall
        ((196, 146, 98), (176, 124, 80), (222, 216, 204), (200, 192, 180), _GREY, _GREY),
        ((186, 134, 90), (166, 114, 72), (176, 194, 200), (150, 172, 182), _GREY, _GREY),
        ((202, 156, 110), (182, 136, 90), (196, 204, 186), (172, 182, 162), _GREY, _GREY),
        ((178, 126, 84), (158, 106, 66), (228, 208, 190), (208, 186, 166), _GREY, _GREY),
    ),
    (  # beach: sand, sky, sea, foam
        ((236, 212, 164), (222, 194, 144), (84, 160, 224), (196, 226, 242), (38, 142, 184), (238, 248, 248)),
        ((240, 218, 176), (226, 200, 156), (106, 172, 226), (250, 226, 196), (32, 124, 172), (244, 246, 240)),
        ((232, 206, 158), (218, 188, 138), (64, 146, 220), (180, 220, 242), (28, 158, 178), (240, 250, 248)),
    ),
    (  # meadow: grass, sky, hills
        ((126, 182, 70), (104, 164, 58), (88, 166, 232), (206, 232, 246), (88, 148, 84), (122, 172, 124)),
        ((136, 186, 76), (114, 168, 60), (112, 178, 234), (236, 236, 224), (96, 150, 76), (136, 178, 132)),
        ((112, 172, 76), (92, 152, 62), (74, 154, 224), (190, 226, 246), (74, 134, 90), (112, 162, 138)),
    ),
    (  # night: ground, sky, far hills
        ((84, 88, 124), (72, 76, 110), (12, 16, 48), (52, 58, 118), (16, 20, 46), (28, 32, 70)),
        ((88, 84, 120), (76, 72, 106), (20, 12, 48), (84, 54, 118), (22, 16, 44), (38, 26, 66)),
        ((74, 90, 116), (64, 78, 104), (6, 20, 44), (30, 72, 112), (10, 22, 42), (18, 38, 64)),
    ),
    (  # brick: pavement, bricks, mortar
        ((176, 172, 166), (160, 156, 150), (172, 100, 80), (204, 176, 158), _GREY, _GREY),
        ((164, 162, 164), (150, 148, 150), (160, 88, 70), (196, 164, 146), _GREY, _GREY),
        ((182, 174, 164), (166, 158, 148), (186, 116, 92), (214, 188, 168), _GREY, _GREY),
    ),
    (  # snow: snow, sky, firs
        ((240, 244, 250), (222, 232, 246), (122, 172, 222), (222, 234, 246), (72, 112, 112), (190, 208, 228)),
        ((242, 243, 250), (226, 228, 246), (150, 172, 218), (246, 224, 222), (84, 104, 124), (204, 204, 230)),
        ((236, 244, 248), (218, 232, 242), (104, 168, 212), (214, 236, 244), (64, 108, 104), (182, 208, 222)),
    ),
)
