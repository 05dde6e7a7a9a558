"""Traces the rows that a scene was staged to, by sphere tracing in numba; everything runs on one thread.

Knows nothing about names, captions or looks, nor how a scene becomes rows. Three coordinate systems:

- a thing's own: x right, y up, z towards its front, its base on y = 0, about one unit tall;
- the world: y up, ground on y = 0, the camera above the origin looking towards -z;
- the camera's: x right, y up, z towards the camera.

Things are signed distance functions (Quilez, "Distance functions") or grids of such distances, marched only inside
their bounding boxes; ground, wall and sky are analytic. Edges, and only edges, are supersampled.

All that is compiled, and every constant that is compiled in, stays in this file: numba's cache on disk is renewed when
the file of a function changes, but not when what it calls or reads in another file does.
"""

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from numba import njit

FAR = 100.0  # the depth of the sky, and the largest depth, in world units
CAMERA_HEIGHT = 1.6
CATALOGUE_FILE = Path(__file__).parents[2] / "presets" / "starter_world" / "catalogue.npz"

MUG, BOTTLE, VASE, BOWL, BOX, LAMP, CHAIR, TEAPOT, BALL, CAR, CACTUS, HAT = range(12)
SOFA, BOOT, CHICKEN, CUPCAKE, HUMAN = range(12, 17)
PLAIN, STRIPED, DOTTED, CHECKERED = range(4)
STUDIO, TABLE, BEACH, MEADOW, NIGHT, BRICK, SNOW = range(7)

# Parts of things. Only SKIN_OF (the outside in the caption's colour) carries the pattern.
BODY, TRIM, SHADED, DARK, GLASS, METAL, CREAM, SKIN, HAIR, TROUSERS, SHOES, WOOD, SHADE, LIGHT, BAND = range(15)

# Columns of a thing's row.
KIND, PX, PZ, COS, SIN, SCALE, PATTERN, PHASE = range(8)
CENTRE, HALF, COLOUR, ACCENT, SKIN_RGB, HAIR_RGB, LEGS_RGB, Q = range(8, 32, 3)  # three columns each, proportions last
COLUMNS = Q + 9

# The proportions of a thing from the catalogue: its size against the model's, then the grid's first node and its cell.
LOWER, CELL = 3, 6

# Columns of the backdrop's row.
SETTING, WALL_Z, COVE, PHASE_A, PHASE_B, SHORE, MOON_X, MOON_Y, POOL_X, POOL_Z = range(10)
GROUND_A, GROUND_B, BACK_A, BACK_B, HILL_A, HILL_B = 10, 13, 16, 19, 22, 25
LIGHT_DIR, KEY, AMBIENT, BOUNCE = 28, 31, 34, 37
BACKDROP_COLUMNS = 40

# Places in a person's joints, after OpenPose's 18.
HEAD, RIGHT_HAND, LEFT_HAND, RIGHT_TOE, LEFT_TOE, STOOL = range(18, 24)

# Columns of the camera's row.
FOCAL, SIN_PITCH, COS_PITCH = range(3)


Grids = Mapping[str, np.ndarray]


@cache
def catalogue() -> Grids:
    """The `n` kinds of `world.CATALOGUE` as grids in their own coordinates.

    lower: float (n, 3), where the first node lies. cell: float (n, 3), from node to node. grids: float32
    (n, 2, X, Y, Z), at each node the signed distance and the nearest part. hulls: float (n, k, 3), points on the
    convex hull.
    """
    with np.load(CATALOGUE_FILE) as file:
        grids = np.stack([file["distances"].astype(np.float32), file["parts"].astype(np.float32)], axis=1)
        return {"lower": file["lower"], "cell": file["cell"], "grids": grids, "hulls": file["hulls"]}


# ---------------------------------------------------------------------------------------------------------------------
# Shapes: signed distance and part, in the thing's own coordinates
# ---------------------------------------------------------------------------------------------------------------------

_jit = njit(fastmath=True, cache=True)


@_jit
def _clamp(x, low, high):
    return min(max(x, low), high)


@_jit
def _smoothstep(low, high, x):
    t = _clamp((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


@_jit
def _smooth_min(a, b, k):
    h = max(k - abs(a - b), 0.0) / k
    return min(a, b) - h * h * k * 0.25


@_jit
def _smooth_max(a, b, k):
    return -_smooth_min(-a, -b, k)


@_jit
def _round_box(x, y, z, half_x, half_y, half_z, r):
    dx, dy, dz = abs(x) - half_x + r, abs(y) - half_y + r, abs(z) - half_z + r
    outside = math.sqrt(max(dx, 0.0) ** 2 + max(dy, 0.0) ** 2 + max(dz, 0.0) ** 2)
    return outside + min(max(dx, max(dy, dz)), 0.0) - r


@_jit
def _round_cylinder(rho, y, radius, half, r):
    """A cylinder about y with rounded edges; rho is the distance from its axis."""
    dx, dy = rho - radius + r, abs(y) - half + r
    return math.sqrt(max(dx, 0.0) ** 2 + max(dy, 0.0) ** 2) + min(max(dx, dy), 0.0) - r


@_jit
def _torus(x, y, z, radius, tube):
    """A ring in the xy plane."""
    around = math.sqrt(x * x + y * y) - radius
    return math.sqrt(around * around + z * z) - tube


@_jit
def _ellipsoid(x, y, z, a, b, c):
    k0 = math.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
    k1 = math.sqrt((x / (a * a)) ** 2 + (y / (b * b)) ** 2 + (z / (c * c)) ** 2)
    return k0 * (k0 - 1.0) / max(k1, 1e-6)


@_jit
def _capsule(x, y, z, ax, ay, az, bx, by, bz, ra, rb):
    """A tapered capsule from a (radius ra) to b (radius rb)."""
    ux, uy, uz = bx - ax, by - ay, bz - az
    vx, vy, vz = x - ax, y - ay, z - az
    t = _clamp((ux * vx + uy * vy + uz * vz) / (ux * ux + uy * uy + uz * uz + 1e-12), 0.0, 1.0)
    return math.sqrt((vx - t * ux) ** 2 + (vy - t * uy) ** 2 + (vz - t * uz) ** 2) - (ra + t * (rb - ra))


@_jit
def _bone(x, y, z, joints, a, b, ra, rb):
    return _capsule(x, y, z, joints[a, 0], joints[a, 1], joints[a, 2], joints[b, 0], joints[b, 1], joints[b, 2], ra, rb)


@_jit
def _nearer(d, part, other, other_part):
    return (other, other_part) if other < d else (d, part)


@_jit
def _mug(x, y, z, q):
    rho = math.sqrt(x * x + z * z)
    radius = q[0] * (1.0 - q[1] * (1.0 - _clamp(y, 0.0, 1.0)))
    outer = _smooth_max(rho - radius, abs(y - 0.5) - 0.5, 0.07)
    inner = _smooth_max(rho - radius + 0.055, 0.09 - y, 0.1)
    wall = _smooth_max(outer, -inner, 0.035)
    handle = _torus((x - q[0] - 0.01) * 1.08, (y - 0.52) * 0.92, z, q[2], 0.062)
    handle = max(handle, radius - 0.03 - rho)
    part = SHADED if inner < 0.02 else (TRIM if y > 0.965 else BODY)
    return _nearer(_smooth_min(wall, handle, 0.035) if handle > wall else wall, part, handle, TRIM)


@_jit
def _bottle(x, y, z, q):
    rho = math.sqrt(x * x + z * z)
    shoulder = _smoothstep(q[1], q[1] + 0.24, y)
    radius = q[0] + (q[2] - q[0]) * shoulder
    slope = 1.5 * (q[0] - q[2]) / 0.24 if 0.0 < shoulder < 1.0 else 0.0
    body = _smooth_max((rho - radius) / math.sqrt(1.0 + slope * slope), abs(y - 0.46) - 0.46, 0.05)
    cap = _round_cylinder(rho, y - 0.945, q[2] + 0.022, 0.055, 0.014)
    return _nearer(body, BODY, cap, SHADED)


@_jit
def _vase_radius(y, q):
    if y < q[2]:
        return q[0] + (q[1] - q[0]) * math.sin(y / q[2] * 0.5 * math.pi)
    if y < 0.82:
        return q[1] + (q[3] - q[1]) * _smoothstep(q[2], 0.82, y)
    return q[3] + (q[4] - q[3]) * ((y - 0.82) / 0.18) ** 2


@_jit
def _vase(x, y, z, q):
    rho = math.sqrt(x * x + z * z)
    level = _clamp(y, 0.0, 1.0)
    radius = _vase_radius(level, q)
    slope = (_vase_radius(min(level + 0.01, 1.0), q) - _vase_radius(max(level - 0.01, 0.0), q)) / 0.02
    steep = math.sqrt(1.0 + slope * slope)
    outer = _smooth_max((rho - radius) / steep, abs(y - 0.5) - 0.5, 0.03)
    inner = max((rho - radius) / steep + 0.035, 0.5 - y)
    part = SHADED if inner < 0.012 else (TRIM if y > 0.965 else BODY)
    return _smooth_max(outer, -inner, 0.025), part


@_jit
def _bowl(x, y, z, q):
    rho = math.sqrt(x * x + z * z)
    height = q[0] * q[1]
    centre_y = q[0] + 0.03
    ball = math.sqrt(rho * rho + (y - centre_y) ** 2) - q[0]
    # A straight collar where the bowl is deeper than its round part.
    side = rho - math.sqrt(max(q[0] ** 2 - min(centre_y - min(y, height), 0.0) ** 2, 0.0)) if y > centre_y else ball
    shell = _smooth_max(abs(side + 0.025) - 0.025, y - height, 0.025)
    foot = _round_cylinder(rho, y - 0.05, q[0] * 0.42, 0.05, 0.015)
    part = CREAM if side < -0.025 else (TRIM if y > height - 0.03 else BODY)
    return _nearer(shell, part, foot, TRIM)


@_jit
def _box(x, y, z, q):
    split = 2.0 * q[1] * 0.74
    lower = _round_box(x, y - split * 0.5, z, q[0], split * 0.5, q[2], 0.025)
    lid_half = q[1] - split * 0.5
    lid = _round_box(x, y - split - lid_half, z, q[0] + 0.03, lid_half, q[2] + 0.03, 0.03)
    return min(lower, lid), BODY


@_jit
def _lamp(x, y, z, q):
    rho = math.sqrt(x * x + z * z)
    level = _clamp((y - q[2]) / (1.0 - q[2]), 0.0, 1.0)
    radius = q[0] + (q[1] - q[0]) * level
    lean = math.sqrt(1.0 + ((q[0] - q[1]) / (1.0 - q[2])) ** 2)
    middle, half = (1.0 + q[2]) * 0.5, (1.0 - q[2]) * 0.5
    side = (rho - radius) / lean
    shade = _smooth_max(abs(side + 0.012) - 0.012, abs(y - middle) - half, 0.015)
    stand = min(_round_cylinder(rho, y - 0.03, 0.19, 0.03, 0.02), _round_cylinder(rho, y - 0.38, 0.028, 0.36, 0.01))
    stand = _smooth_min(stand, _round_cylinder(rho, y - 0.10, 0.06, 0.06, 0.04), 0.06)
    bulb = math.sqrt(rho * rho + (y - middle) ** 2) - 0.085
    d, part = _nearer(shade, LIGHT if side < -0.012 else SHADE, stand, METAL)
    return _nearer(d, part, bulb, LIGHT)


@_jit
def _chair(x, y, z, q):
    half, seat = q[0], q[1]
    ax = abs(x)
    d = _round_box(x, y - seat, z, half, 0.035, half, 0.03)
    leg_x, leg_z = half - 0.04, half - 0.04
    splay = (seat - y) * 0.06
    legs = _round_box(ax - leg_x - splay, y - seat * 0.5, abs(z) - leg_z - splay, 0.032, seat * 0.5, 0.032, 0.015)
    back_z = z + half - 0.035 + q[2] * (y - seat) / 0.55
    posts = _round_box(ax - half + 0.035, y - (seat + 1.0) * 0.5, back_z, 0.03, (1.0 - seat) * 0.5, 0.03, 0.02)
    panel = _round_box(x, y - 0.86, back_z, half, 0.16, 0.026, 0.025)
    d, part = _nearer(min(d, panel), BODY, min(legs, posts), TRIM)
    return d * 0.96, part


@_jit
def _teapot(x, y, z, q):
    rho = math.sqrt(x * x + z * z)
    middle = q[1] + 0.02
    body = _ellipsoid(x, y - middle, z, q[0], q[1], q[0])
    top = middle + q[1]
    foot = _round_cylinder(rho, y - 0.03, q[0] * 0.58, 0.03, 0.015)
    body = _smooth_min(body, foot, 0.04)
    spout = _capsule(x, y, z, -0.28, middle - 0.06, 0.0, -0.56, middle + 0.08, 0.0, 0.12, 0.075)
    spout = _smooth_min(
        spout, _capsule(x, y, z, -0.56, middle + 0.08, 0.0, -0.70, middle + 0.27, 0.0, 0.075, 0.045), 0.05
    )
    handle = _torus((x - q[0] + 0.02) * 0.98, (y - middle - 0.03) * 0.95, z, 0.215, 0.046)
    handle = max(handle, -body - 0.05)
    lid = _ellipsoid(x, y - top + 0.05, z, q[0] * 0.50, 0.085, q[0] * 0.50)
    rim = _torus(x, z, y - top + 0.045, q[0] * 0.47, 0.022)
    knob = math.sqrt(rho * rho + (y - top - 0.075) ** 2) - 0.062
    knob = _smooth_min(knob, lid, 0.03)
    d, part = _smooth_min(body, spout, 0.07), BODY
    if spout < body:
        part = TRIM
    d, part = _nearer(d, part, handle, TRIM)
    return _nearer(d, part, min(knob, rim), TRIM)


@_jit
def _car(x, y, z, q):
    """Front towards +x."""
    length, cabin, shift = q[0], q[1], q[2]
    az = abs(z)
    hull = _round_box(x, y - 0.235, z, length, 0.125, 0.32, 0.085)
    # The cabin narrows upwards: its cross-section is widened before measuring.
    widen = 1.0 / (1.0 - 0.55 * _clamp(y - 0.32, 0.0, 0.3))
    lean = 1.0 / (1.0 - 1.35 * _clamp(y - 0.32, 0.0, 0.3))
    roof = _round_box((x - shift) * lean, y - 0.44, z * widen, cabin, 0.165, 0.275, 0.07) * 0.72
    body = _smooth_min(hull, roof, 0.03)
    wheel_x = abs(x) - length * 0.60
    spoke = math.sqrt(wheel_x * wheel_x + (y - 0.15) ** 2)
    arch = max(spoke - 0.178, 0.22 - az)
    body = _smooth_max(body, -arch, 0.02)
    tyre = _round_cylinder(spoke, az - 0.27, 0.15, 0.075, 0.03)
    part = BODY
    inside = (x - shift) * lean / cabin
    up = y - 0.37
    if roof < hull + 0.02 and 0.015 < up < 0.17:
        across = az * widen
        side_window = abs(inside) < 0.80 and abs(inside - 0.04) > 0.05 and across > 0.24
        if side_window or (abs(inside) > 0.90 and across < 0.225):
            part = GLASS
    lamp_y = math.sqrt((y - 0.255) ** 2 + (az - 0.215) ** 2)
    if abs(x) > length - 0.06 and lamp_y < 0.052:
        part = LIGHT if x > 0 else BAND
    hub = METAL if spoke < 0.078 else DARK
    return _nearer(body, part, tyre, hub)


@_jit
def _cactus(x, y, z, q):
    rho = math.sqrt(x * x + z * z)
    pot_radius = 0.15 + 0.24 * _clamp(y, 0.0, 0.30)
    pot = _smooth_max((rho - pot_radius) * 0.96, abs(y - 0.14) - 0.14, 0.03)
    pot = min(pot, _round_cylinder(rho, y - 0.275, 0.24, 0.04, 0.02))
    # Ribs run along the trunk and the arms.
    trunk = _capsule(x, y, z, 0.0, 0.3, 0.0, 0.0, 1.0 - q[0], 0.0, q[0] * 0.94, q[0])
    if trunk < 0.1:
        trunk += 0.010 * math.cos(9.0 * math.atan2(z, x))
    side, low = (1.0, q[1]) if (x > 0.0) == (q[3] > 0.0) else (-1.0, q[2])
    ax = abs(x)
    top = low + (0.26 if side > 0.0 else 0.20)
    arm = _capsule(ax, y, z, 0.08, low - 0.02, 0.0, 0.30, low, 0.0, 0.062, 0.066)
    arm = _smooth_min(arm, _capsule(ax, y, z, 0.31, low + 0.01, 0.0, 0.315, top, 0.0, 0.067, 0.072), 0.07)
    if arm < 0.1:
        arm += 0.004 * math.cos(7.0 * math.atan2(z, ax - 0.31))
    return _nearer(_smooth_min(trunk, arm, 0.05) * 0.9, BODY, pot, CREAM)


@_jit
def _hat(x, y, z, q):
    rho = math.sqrt(x * x + z * z)
    crown_radius = q[0] * (1.0 - 0.16 * _clamp(y / q[1], 0.0, 1.0))
    # The brim rises at the sides and dips in front.
    lift = 0.05 + 0.10 * (rho / q[2]) ** 2 * (x * x - 0.55 * z * z) / max(rho * rho, 1e-6)
    brim = _smooth_max(rho - q[2], abs(y - lift) - 0.018, 0.03) * 0.85
    crown = _smooth_max(rho - crown_radius, abs(y - q[1] * 0.5 - 0.02) - q[1] * 0.5 + 0.02, 0.10)
    dent = _ellipsoid(x, y - q[1] - 0.07, z, 0.10, 0.15, 0.30)
    crown = _smooth_max(crown, -dent, 0.10) * 0.9
    d, part = _smooth_min(brim, crown, 0.04), BODY
    if crown < brim and 0.08 < y < 0.165:
        part = BAND
    return d, part


@_jit
def _human(x, y, z, joints, q):
    hx, hy, hz = x - joints[HEAD, 0], y - joints[HEAD, 1], z - joints[HEAD, 2]
    head = _ellipsoid(hx, hy, hz, 0.125, 0.155, 0.135)
    head = min(head, math.sqrt((abs(hx) - 0.125) ** 2 + hy * hy + hz * hz) - 0.03)
    head = _smooth_min(head, math.sqrt(hx * hx + (hy + 0.02) ** 2 + (hz - 0.132) ** 2) - 0.018, 0.02)
    head = _smooth_min(head, _bone(x, y, z, joints, HEAD, 1, 0.055, 0.055), 0.03)
    part = SKIN
    if head < 0.01 and hz > 0.05:
        if (abs(hx) - 0.05) ** 2 + (hy - 0.02) ** 2 < 0.017**2:
            part = DARK
        elif abs(hx) < 0.042 and abs(hy + 0.078 - 6.0 * hx * hx) < 0.009:
            part = BAND
    hair = _ellipsoid(hx, hy - 0.03, hz + 0.025, 0.142, 0.155, 0.145)
    if q[0] > 0.5:
        hair = _smooth_min(hair, _round_box(hx, hy + 0.10, hz + 0.08, 0.125, 0.16, 0.055, 0.05), 0.06)
    hair = _smooth_max(hair, 0.78 * hz - 0.62 * (hy - 0.02), 0.02)
    d, part = _nearer(head, part, hair, HAIR)

    chest = _round_box(x - joints[1, 0], y - joints[1, 1] + 0.22, z - joints[1, 2], 0.185, 0.235, 0.105, 0.10)
    waist = _round_box(x, y - joints[8, 1] - 0.12, z, 0.138, 0.17, 0.09, 0.085)
    shirt = _smooth_min(chest, waist, 0.10)
    arms = min(_bone(x, y, z, joints, 2, 3, 0.066, 0.056), _bone(x, y, z, joints, 5, 6, 0.066, 0.056))
    shirt = _smooth_min(shirt, arms, 0.05)
    lower = min(_bone(x, y, z, joints, 3, 4, 0.054, 0.042), _bone(x, y, z, joints, 6, 7, 0.054, 0.042))
    hands = min(_bone(x, y, z, joints, 4, RIGHT_HAND, 0.042, 0.048), _bone(x, y, z, joints, 7, LEFT_HAND, 0.042, 0.048))
    if q[1] > 0.5:
        hands = min(hands, lower)
    else:
        shirt = min(shirt, lower - 0.004)
    d, part = _nearer(d, part, shirt, BODY)
    d, part = _nearer(d, part, hands, SKIN)

    hips = _round_box(x, y - joints[8, 1] + 0.01, z, 0.165, 0.09, 0.105, 0.085)
    legs = min(_bone(x, y, z, joints, 8, 9, 0.088, 0.068), _bone(x, y, z, joints, 11, 12, 0.088, 0.068))
    legs = min(_smooth_min(hips, legs, 0.04), _bone(x, y, z, joints, 9, 10, 0.068, 0.052))
    legs = min(legs, _bone(x, y, z, joints, 12, 13, 0.068, 0.052))
    d, part = _nearer(d, part, legs, TROUSERS)
    shoes = min(_bone(x, y, z, joints, 10, RIGHT_TOE, 0.058, 0.045), _bone(x, y, z, joints, 13, LEFT_TOE, 0.058, 0.045))
    d, part = _nearer(d, part, max(shoes, 0.012 - y), SHOES)
    seat = joints[STOOL, 1]
    if seat > 0.0:
        stool = _round_box(x, y - seat * 0.5, z, 0.2, seat * 0.5, 0.18, 0.03)
        d, part = _nearer(d, part, stool, WOOD)
    return d, part


@_jit
def _catalogued(x, y, z, q, index, grids):
    """A thing from the catalogue, interpolated between the nodes of its grid."""
    size_x, size_y, size_z = grids.shape[2:]
    u, v, w = x / q[0], y / q[1], z / q[2]
    u, v, w = (u - q[LOWER]) / q[CELL], (v - q[LOWER + 1]) / q[CELL + 1], (w - q[LOWER + 2]) / q[CELL + 2]
    cu, cv, cw = _clamp(u, 0.0, size_x - 1.001), _clamp(v, 0.0, size_y - 1.001), _clamp(w, 0.0, size_z - 1.001)
    i, j, k = int(cu), int(cv), int(cw)
    fu, fv, fw = cu - i, cv - j, cw - k
    d = 0.0
    for a in range(2):
        for b in range(2):
            line = grids[index, 0, i + a, j + b, k] * (1.0 - fw) + grids[index, 0, i + a, j + b, k + 1] * fw
            d += line * (fu if a else 1.0 - fu) * (fv if b else 1.0 - fv)
    if cu != u or cv != v or cw != w:
        # Seen from outside, all of the thing lies behind the border's nearest point: at a right angle or more.
        du, dv, dw = (u - cu) * q[CELL], (v - cv) * q[CELL + 1], (w - cw) * q[CELL + 2]
        d = math.sqrt(du * du + dv * dv + dw * dw + max(d, 0.0) ** 2)
    part = _voted_part(i, j, k, fu, fv, fw, index, grids) if d < 0.01 else BODY
    return d * min(q[0], min(q[1], q[2])), part


@_jit
def _voted_part(i, j, k, fu, fv, fw, index, grids):
    """The part of most of the eight nodes of a cell, each by how near it is: borders of parts come out smooth."""
    best, elected = 0.0, BODY
    for first in range(8):
        part = grids[index, 1, i + (first >> 2), j + (first >> 1 & 1), k + (first & 1)]
        weight = 0.0
        for other in range(8):
            a, b, c = other >> 2, other >> 1 & 1, other & 1
            if grids[index, 1, i + a, j + b, k + c] == part:
                weight += (fu if a else 1.0 - fu) * (fv if b else 1.0 - fv) * (fw if c else 1.0 - fw)
        if weight > best:
            best, elected = weight, int(part)
        if best > 0.5:
            break
    return elected


@_jit
def _shape(kind, x, y, z, q, joints, grids):
    """Signed distance to a thing and the part that is nearest."""
    if kind == MUG:
        return _mug(x, y, z, q)
    if kind == BOTTLE:
        return _bottle(x, y, z, q)
    if kind == VASE:
        return _vase(x, y, z, q)
    if kind == BOWL:
        return _bowl(x, y, z, q)
    if kind == BOX:
        return _box(x, y, z, q)
    if kind == LAMP:
        return _lamp(x, y, z, q)
    if kind == CHAIR:
        return _chair(x, y, z, q)
    if kind == TEAPOT:
        return _teapot(x, y, z, q)
    if kind == BALL:
        return math.sqrt(x * x + (y - 0.5) ** 2 + z * z) - 0.5, BODY
    if kind == CAR:
        return _car(x, y, z, q)
    if kind == CACTUS:
        return _cactus(x, y, z, q)
    if kind == HAT:
        return _hat(x, y, z, q)
    if kind != HUMAN:
        return _catalogued(x, y, z, q, int(kind) - SOFA, grids)
    return _human(x, y, z, joints, q)


# ---------------------------------------------------------------------------------------------------------------------
# Patterns
# ---------------------------------------------------------------------------------------------------------------------


@_jit
def _dot(u, v, cell):
    """Whether (u, v) lies in a dot of a staggered grid."""
    row = math.floor(v / cell)
    u += 0.5 * cell * (row % 2.0)
    du, dv = u / cell - math.floor(u / cell) - 0.5, v / cell - row - 0.5
    return du * du + dv * dv < 0.30**2


@_jit
def _accented(kind, pattern, phase, x, y, z, nx, ny, nz, q):
    """Whether the pattern's second colour shows at a point of the surface, given with its normal."""
    if kind in (BOX, CHAIR, CAR, SOFA, BOOT):
        cell = 0.20 if kind == BOX else 0.15
        ax, ay, az = abs(nx), abs(ny), abs(nz)
        if ay > ax and ay > az:
            u, v = x, z
        elif ax > az:
            u, v = z, y
        else:
            u, v = x, y
        u, v = u + 10.0 * cell + 0.5 * cell, v + 10.0 * cell
        if pattern == STRIPED:
            band = u * 0.8 if kind != CAR else x + 10.0
            return math.floor(band / (0.8 * cell)) % 2.0 == 0.0
        if pattern == DOTTED:
            return _dot(u, v, cell * 1.15)
        return (math.floor(u / cell) + math.floor(v / cell)) % 2.0 == 0.0

    rho = math.sqrt(x * x + z * z)
    if kind == BALL:
        # The poles are tilted, so that the pattern shows from the side and from above.
        tilt = 0.5
        y0 = y - 0.5
        y, z = y0 * math.cos(tilt) - z * math.sin(tilt), y0 * math.sin(tilt) + z * math.cos(tilt)
        rho = math.sqrt(x * x + z * z)
        latitude = math.atan2(y, rho)
        v, girth, bands = 0.5 * latitude + 0.785, 0.5, 6.0
        cell = 1.5708 / bands
    elif kind == HAT:
        v, girth, cell = y + q[2] - rho + 0.02, 0.45, 0.125
    elif kind == BOWL:
        v, girth, cell = y, q[0] * 0.9, q[0] * q[1] / 4.0
    elif kind == LAMP:
        v, girth, cell = y - q[2] + 1.0, 0.5 * (q[0] + q[1]), (1.0 - q[2]) / 4.0
        v -= 1.0 - math.floor(1.0 / (2.0 * cell)) * 2.0 * cell
    elif kind == BOTTLE:
        v, girth, cell = y, q[0], 0.105
    elif kind == CACTUS:
        v, girth, cell = y, 0.17, 0.105
    elif kind == VASE:
        v, girth, cell = y, q[1], 0.125
    elif kind == TEAPOT:
        v, girth, cell = y, q[0], 2.0 * q[1] / 5.0
    elif kind == CHICKEN:
        v, girth, cell = y, 0.30, 0.125
    elif kind == CUPCAKE:
        v, girth, cell = y, 0.36, 0.105
    else:
        v, girth, cell = y, q[0], 1.0 / 6.0
    if pattern == STRIPED:
        return math.floor(v / cell) % 2.0 == 1.0
    turn = math.atan2(z, x) / (2.0 * math.pi) + phase
    if pattern == DOTTED:
        cell *= 1.25
        around = max(round(2.0 * math.pi * girth / cell), 4.0)
        u = (turn - math.floor(turn)) * around
        # Distances along the circle shrink with its radius; dots stay round.
        row = math.floor(v / cell)
        u += 0.5 * (row % 2.0)
        du = (u - math.floor(u) - 0.5) * 2.0 * math.pi * max(rho, 0.3 * girth) / (around * cell)
        dv = v / cell - row - 0.5
        return du * du + dv * dv < 0.31**2
    around = 2.0 * max(round(math.pi * girth / cell), 3.0)
    return (math.floor(turn * around) + math.floor(v / cell)) % 2.0 == 0.0


# ---------------------------------------------------------------------------------------------------------------------
# Backdrops: calm, smooth textures
# ---------------------------------------------------------------------------------------------------------------------


@_jit
def _hash(i, j):
    h = math.sin(i * 127.1 + j * 311.7) * 43758.5453
    return h - math.floor(h)


@_jit
def _noise(x, y):
    """Smooth value noise in 0..1."""
    i, j = math.floor(x), math.floor(y)
    u, v = x - i, y - j
    u, v = u * u * (3.0 - 2.0 * u), v * v * (3.0 - 2.0 * v)
    low = _hash(i, j) * (1.0 - u) + _hash(i + 1.0, j) * u
    high = _hash(i, j + 1.0) * (1.0 - u) + _hash(i + 1.0, j + 1.0) * u
    return low * (1.0 - v) + high * v


@_jit
def _mix3(row, a, b, t):
    return (
        row[a] + (row[b] - row[a]) * t,
        row[a + 1] + (row[b + 1] - row[a + 1]) * t,
        row[a + 2] + (row[b + 2] - row[a + 2]) * t,
    )


@_jit
def _groove(x, width, blur):
    """1 in a groove about whole numbers, 0 elsewhere, with soft edges."""
    near = abs(x - math.floor(x + 0.5))
    return 1.0 - _smoothstep(width, width + blur, near)


@_jit
def _ground_albedo(backdrop, x, z, t):
    setting = backdrop[SETTING]
    a, b = backdrop[PHASE_A], backdrop[PHASE_B]
    calm = _clamp(1.4 - t / 12.0, 0.0, 1.0)
    if setting == TABLE:
        across = x / 0.62 + a
        plank = math.floor(across + 0.5)
        grain = _noise(x * 5.0 + plank * 17.0, z * 0.55 + plank * 7.0)
        tone = 0.45 * _hash(plank, 3.0) + 0.45 * grain
        seam = 0.34 * _groove(across - 0.5, 0.008, 0.02 + 0.004 * t)
        r, g, bl = _mix3(backdrop, GROUND_A, GROUND_B, tone)
        return r * (1.0 - seam), g * (1.0 - seam), bl * (1.0 - seam)
    if setting == BEACH:
        bend = 0.5 * _noise(x * 0.7 + a, z * 0.7 + b)
        ripple = 0.5 + 0.5 * math.sin(z * 5.0 + 7.0 * bend + 0.6 * x)
        wash = 0.30 * math.sin(x * 0.55 + a) + 0.12 * math.sin(x * 1.7 + b)
        to_sea = (backdrop[SHORE] + wash - z) / (0.16 + 0.03 * t)
        if to_sea > 1.0:
            deep = _smoothstep(0.0, 14.0, to_sea)
            foam = 1.0 - _smoothstep(1.0, 2.2, to_sea)
            r, g, bl = _mix3(backdrop, HILL_A, HILL_B, 0.16 * (1.0 - deep))
            return (
                r + (backdrop[HILL_B] - r) * foam,
                g + (backdrop[HILL_B + 1] - g) * foam,
                bl + (backdrop[HILL_B + 2] - bl) * foam,
            )
        wet = 0.30 * _smoothstep(-2.5, 1.0, to_sea)
        r, g, bl = _mix3(backdrop, GROUND_A, GROUND_B, 0.45 * ripple * calm)
        return r * (1.0 - wet), g * (1.0 - wet), bl * (1.0 - wet)
    if setting == BRICK:
        slab_x, slab_z = x / 1.5 + a, z / 1.5 + b
        seam = 0.22 * max(_groove(slab_x, 0.006, 0.012 + 0.002 * t), _groove(slab_z, 0.006, 0.014 + 0.004 * t))
        tone = 0.8 * _hash(math.floor(slab_x), math.floor(slab_z))
        r, g, bl = _mix3(backdrop, GROUND_A, GROUND_B, tone)
        return r * (1.0 - seam), g * (1.0 - seam), bl * (1.0 - seam)
    if setting == STUDIO:
        return backdrop[GROUND_A], backdrop[GROUND_A + 1], backdrop[GROUND_A + 2]
    # Meadow, night and snow: wide soft patches.
    stretch = 1.0 if setting == MEADOW else 0.6
    patch = _noise(x * stretch + a, z * stretch * 1.3 + b)
    patch = 0.65 * patch + 0.35 * _noise(x * 2.3 * stretch + b, z * 3.0 * stretch + a)
    return _mix3(backdrop, GROUND_A, GROUND_B, _smoothstep(0.2, 0.8, patch) * calm)


@_jit
def _wall_albedo(backdrop, x, y):
    setting = backdrop[SETTING]
    if setting == BRICK:
        # Bricks grow with the wall's distance: in the picture they are always about 14 px high.
        height = -0.042 * backdrop[WALL_Z]
        course = y / height
        row = math.floor(course)
        along = x / (2.6 * height) + backdrop[PHASE_A] + 0.5 * (row % 2.0)
        mortar = 0.75 * max(_groove(course, 0.045, 0.05), _groove(along, 0.017, 0.02))
        tone = 0.90 + 0.16 * _hash(row, math.floor(along))
        r, g, b = _mix3(backdrop, BACK_A, BACK_B, mortar)
        tone = tone + (1.0 - tone) * mortar
        return r * tone, g * tone, b * tone
    if setting == TABLE:
        return _mix3(backdrop, BACK_A, BACK_B, 0.7 * _smoothstep(3.5, 0.0, y))
    rise = _smoothstep(0.0, 2.0, y)
    return _mix3(backdrop, GROUND_A, BACK_A, rise)


@_jit
def _sky(backdrop, dx, dy, dz):
    """The sky's colour in direction d; also hills, firs, moon and stars."""
    setting = backdrop[SETTING]
    a, b = backdrop[PHASE_A], backdrop[PHASE_B]
    azimuth, up = math.atan2(dx, -dz), dy / math.sqrt(dx * dx + dz * dz)
    r, g, bl = _mix3(backdrop, BACK_B, BACK_A, _smoothstep(0.0, 0.42, up))
    if setting == NIGHT:
        cell_x, cell_y = azimuth * 14.0 + a, up * 14.0
        i, j = math.floor(cell_x), math.floor(cell_y)
        chance = _hash(i + a, j)
        if chance > 0.62:
            sx, sy = 0.3 + 0.4 * _hash(i, j + 5.0), 0.3 + 0.4 * _hash(i + 9.0, j)
            near = math.sqrt((cell_x - i - sx) ** 2 + (cell_y - j - sy) ** 2)
            glow = (1.0 - _smoothstep(0.04, 0.10, near)) * (0.35 + 1.4 * (chance - 0.62))
            r, g, bl = r + glow, g + glow, bl + glow
        moon = math.sqrt((azimuth - backdrop[MOON_X]) ** 2 + (up - backdrop[MOON_Y]) ** 2)
        halo = 0.30 * math.exp(-moon * 14.0)
        r, g, bl = r + 0.8 * halo, g + 0.8 * halo, bl + halo
        disc = 1.0 - _smoothstep(0.045, 0.050, moon)
        r, g, bl = r + (0.93 - r) * disc, g + (0.90 - g) * disc, bl + (0.72 - bl) * disc
    elif up > 0.02:
        cloud = _noise(azimuth * 5.0 + a, up * 14.0 + b) * 0.65 + _noise(azimuth * 11.0 + b, up * 30.0 + a) * 0.35
        cover = 0.75 * _smoothstep(0.52, 0.80, cloud) * _smoothstep(0.03, 0.12, up)
        r, g, bl = r + (0.98 - r) * cover, g + (0.98 - g) * cover, bl + (0.99 - bl) * cover
    if setting in (MEADOW, NIGHT, SNOW):
        far = 0.055 + 0.028 * math.sin(azimuth * 4.1 + a) + 0.014 * math.sin(azimuth * 9.7 + b)
        if up < far:
            r, g, bl = backdrop[HILL_B], backdrop[HILL_B + 1], backdrop[HILL_B + 2]
        close = 0.028 + 0.022 * math.sin(azimuth * 5.3 + b) + 0.010 * math.sin(azimuth * 13.0 + a)
        if setting == SNOW:
            # A row of firs: triangles of hashed height.
            spot = azimuth * 11.0 + b
            tree = math.floor(spot)
            tall = 0.07 + 0.07 * _hash(tree, 1.0)
            lean = abs(spot - tree - 0.35 - 0.3 * _hash(tree, 2.0))
            close = tall * (1.0 - lean * 2.9) if _hash(tree, 4.0) > 0.3 else -1.0
        if up < close:
            r, g, bl = backdrop[HILL_A], backdrop[HILL_A + 1], backdrop[HILL_A + 2]
    return r, g, bl


# ---------------------------------------------------------------------------------------------------------------------
# Tracing
# ---------------------------------------------------------------------------------------------------------------------


@_jit
def _local(row, x, y, z):
    dx, dz = x - row[PX], z - row[PZ]
    s = 1.0 / row[SCALE]
    return (row[COS] * dx - row[SIN] * dz) * s, y * s, (row[SIN] * dx + row[COS] * dz) * s


@_jit
def _span(row, ox, oy, oz, dx, dy, dz, slack):
    """Where a ray in a thing's own coordinates enters and leaves its bounding box; enters after leaving on a miss."""
    ix, iy, iz = 1.0 / (dx + 1e-9), 1.0 / (dy + 1e-9), 1.0 / (dz + 1e-9)
    mx, my, mz = (row[CENTRE] - ox) * ix, (row[CENTRE + 1] - oy) * iy, (row[CENTRE + 2] - oz) * iz
    wx, wy, wz = (row[HALF] + slack) * abs(ix), (row[HALF + 1] + slack) * abs(iy), (row[HALF + 2] + slack) * abs(iz)
    return max(max(mx - wx, my - wy), max(mz - wz, 0.0)), min(mx + wx, min(my + wy, mz + wz))


@_jit
def _shadow(things, joints, grids, backdrop, x, y, z, start):
    """The part of the key light that reaches a point: 0..1, with a penumbra."""
    lx, ly, lz = backdrop[LIGHT_DIR], backdrop[LIGHT_DIR + 1], backdrop[LIGHT_DIR + 2]
    lit = 1.0
    for index in range(len(things)):
        row = things[index]
        ox, oy, oz = _local(row, x, y, z)
        dx, dz = row[COS] * lx - row[SIN] * lz, row[SIN] * lx + row[COS] * lz
        enter, leave = _span(row, ox, oy, oz, dx, ly, dz, 0.06)
        t = max(enter, start)
        q = row[Q:]
        for _ in range(40):
            if t >= leave or lit < 0.01:
                break
            d, _part = _shape(row[KIND], ox + t * dx, oy + t * ly, oz + t * dz, q, joints[index], grids)
            lit = min(lit, 0.5 + 0.5 * d * 9.0 / max(t, 0.05))
            if lit < 0.0:
                lit = 0.0
            t += _clamp(abs(d) * 0.9, 0.015, 0.2)
    return lit * lit * (3.0 - 2.0 * lit)


@_jit
def _closeness(things, joints, grids, x, y, z, nx, ny, nz):
    """How much of the surroundings the things hide from a point of ground or wall: 1 = open."""
    hidden = 0.0
    for index in range(len(things)):
        row = things[index]
        ox, oy, oz = _local(row, x, y, z)
        bx, by = max(abs(ox - row[CENTRE]) - row[HALF], 0.0), max(abs(oy - row[CENTRE + 1]) - row[HALF + 1], 0.0)
        bz = max(abs(oz - row[CENTRE + 2]) - row[HALF + 2], 0.0)
        far = math.sqrt(bx * bx + by * by + bz * bz)
        if far > 0.4:
            continue
        fade = 1.0 - _smoothstep(0.0, 0.4, far)
        cx, cz = row[COS] * nx - row[SIN] * nz, row[SIN] * nx + row[COS] * nz
        for step in (0.04, 0.14):
            d, _part = _shape(row[KIND], ox + cx * step, oy + ny * step, oz + cz * step, row[Q:], joints[index], grids)
            hidden = max(hidden, fade * (1.0 - _smoothstep(0.0, 4.0 * step, d)) * (0.42 if step < 0.1 else 0.5))
    return 1.0 - hidden


@_jit
def _display(value):
    """Linear light to sRGB 0..1, with a soft shoulder."""
    if value > 0.75:
        value = 0.75 + 0.25 * (1.0 - math.exp(-(value - 0.75) / 0.25))
    value = _clamp(value, 0.0, 1.0)
    return 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1.0 / 2.4) - 0.055


@_jit
def _part_albedo(row, part, accented):
    if part in (BODY, SHADE) and accented:
        return row[ACCENT], row[ACCENT + 1], row[ACCENT + 2]
    if part in (BODY, TRIM, SHADE):
        return row[COLOUR], row[COLOUR + 1], row[COLOUR + 2]
    if part == SHADED:
        return 0.62 * row[COLOUR], 0.62 * row[COLOUR + 1], 0.62 * row[COLOUR + 2]
    if part == DARK:
        return 0.018, 0.018, 0.022
    if part == GLASS:
        return 0.11, 0.20, 0.28
    if part == METAL:
        return 0.42, 0.40, 0.37
    if part == CREAM:
        return 0.78, 0.73, 0.64
    if part == SKIN:
        return row[SKIN_RGB], row[SKIN_RGB + 1], row[SKIN_RGB + 2]
    if part == HAIR:
        return row[HAIR_RGB], row[HAIR_RGB + 1], row[HAIR_RGB + 2]
    if part == TROUSERS:
        return row[LEGS_RGB], row[LEGS_RGB + 1], row[LEGS_RGB + 2]
    if part == SHOES:
        return 0.06, 0.045, 0.04
    if part == WOOD:
        return 0.48, 0.29, 0.14
    if part == LIGHT:
        return 1.0, 0.92, 0.72
    if row[KIND] == HUMAN:
        return 0.42, 0.12, 0.10
    if row[KIND] in (CAR, CHICKEN, CUPCAKE):
        return 0.55, 0.02, 0.02
    if row[COLOUR] + row[COLOUR + 1] + row[COLOUR + 2] < 0.1:
        return 0.75, 0.72, 0.66
    return 0.03, 0.03, 0.035


@_jit
def _shade_thing(backdrop, channel, albedo, lit, above, open_, glow, shine, mirror):
    key, sky = backdrop[KEY + channel], backdrop[AMBIENT + channel]
    ambient = sky * (0.35 + 0.65 * above) + backdrop[BOUNCE + channel] * (1.0 - above)
    return albedo * (key * lit + ambient * open_ + glow) + shine * key + mirror * (sky + 0.35)


@_jit
def _shade_ground(backdrop, channel, albedo, key, open_, shade, hazy, at_sea):
    colour = albedo * (backdrop[KEY + channel] * key + 0.62 * backdrop[AMBIENT + channel] * open_) * shade
    setting, hill, sky = backdrop[SETTING], backdrop[HILL_A + channel], backdrop[BACK_B + channel]
    far = sky
    if setting == NIGHT:
        far = 0.5 * hill + 0.12 * backdrop[GROUND_A + channel]
    elif setting in (MEADOW, SNOW):
        far = 0.5 * hill + 0.5 * backdrop[GROUND_A + channel]
    elif at_sea:
        far = 0.6 * hill + 0.4 * sky
    return colour + (far - colour) * hazy


@_jit
def _sample(u, v, camera, things, joints, backdrop, grids):
    """Colour, depth, normal, segmentation and material of what is seen at (u, v), measured from the middle."""
    sin_pitch, cos_pitch = camera[SIN_PITCH], camera[COS_PITCH]
    dx, dy, dz = u, v * cos_pitch - camera[FOCAL] * sin_pitch, -v * sin_pitch - camera[FOCAL] * cos_pitch
    norm = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
    dx, dy, dz = dx * norm, dy * norm, dz * norm
    best, which = FAR, -1
    setting = backdrop[SETTING]

    nearest_x = nearest_y = nearest_z = 0.0
    for index in range(len(things)):
        row = things[index]
        ox, oy, oz = _local(row, 0.0, CAMERA_HEIGHT, 0.0)
        lx, lz = row[COS] * dx - row[SIN] * dz, row[SIN] * dx + row[COS] * dz
        t, leave = _span(row, ox, oy, oz, lx, dy, lz, 0.0)
        q, kind, limbs = row[Q:], row[KIND], joints[index]
        for _ in range(80):
            if t > leave:
                break
            d, _part = _shape(kind, ox + t * lx, oy + t * dy, oz + t * lz, q, limbs, grids)
            if d < 0.0005 * t:
                t += d
                if t * row[SCALE] < best:
                    best, which = t * row[SCALE], index
                    nearest_x, nearest_y, nearest_z = ox + t * lx, oy + t * dy, oz + t * lz
                break
            t += 0.92 * d

    kx, ky, kz = backdrop[LIGHT_DIR], backdrop[LIGHT_DIR + 1], backdrop[LIGHT_DIR + 2]
    # ---- a thing
    if which >= 0:
        row, limbs = things[which], joints[which]
        q, kind = row[Q:], row[KIND]
        x, y, z = nearest_x, nearest_y, nearest_z
        d, part = _shape(kind, x, y, z, q, limbs, grids)
        # The slope of a grid jumps from cell to cell: it is taken over a cell.
        e = 0.014 if SOFA <= kind < HUMAN else 0.0015
        d0, _part = _shape(kind, x + e, y - e, z - e, q, limbs, grids)
        d1, _part = _shape(kind, x - e, y - e, z + e, q, limbs, grids)
        d2, _part = _shape(kind, x - e, y + e, z - e, q, limbs, grids)
        d3, _part = _shape(kind, x + e, y + e, z + e, q, limbs, grids)
        gx, gy, gz = d0 - d1 - d2 + d3, -d0 - d1 + d2 + d3, -d0 + d1 - d2 + d3
        norm = 1.0 / math.sqrt(gx * gx + gy * gy + gz * gz + 1e-20)
        gx, gy, gz = gx * norm, gy * norm, gz * norm
        accented = False
        if row[PATTERN] != PLAIN and part in (BODY, SHADE):
            accented = _accented(kind, row[PATTERN], row[PHASE], x, y, z, gx, gy, gz, q)
        nx, ny, nz = row[COS] * gx + row[SIN] * gz, gy, -row[SIN] * gx + row[COS] * gz

        open_ = 1.0
        for step in (0.05, 0.15):
            d, _part = _shape(kind, x + gx * step, y + gy * step, z + gz * step, q, limbs, grids)
            open_ -= 0.45 * _clamp(1.0 - d / step, 0.0, 1.0)
        open_ *= 1.0 - 0.5 * (1.0 - _smoothstep(-0.05, 0.30, y)) * _clamp(0.6 - ny, 0.0, 1.0)
        open_ = max(open_, 0.12)

        px, py, pz = best * dx, CAMERA_HEIGHT + best * dy, best * dz
        facing = nx * kx + ny * ky + nz * kz
        lit = 0.0
        if facing > 0.0:
            away = 0.012 * row[SCALE]
            lit = facing * _shadow(
                things, joints, grids, backdrop, px + nx * away, py + ny * away, pz + nz * away, 0.02
            )
        above = 0.5 + 0.5 * ny
        glossy = (
            0.55
            if part in (BODY, TRIM, SHADED, CREAM) and kind not in (CACTUS, HAT, CHAIR, SOFA, CHICKEN, HUMAN)
            else 0.12
        )
        if part in (GLASS, METAL):
            glossy = 1.0
        along = dx * nx + dy * ny + dz * nz
        rx, ry, rz = dx - 2.0 * along * nx, dy - 2.0 * along * ny, dz - 2.0 * along * nz
        gleam = max(rx * kx + ry * ky + rz * kz, 0.0)
        shine = glossy * (0.75 * gleam**70.0 + 0.10 * gleam**10.0) * min(1.0, lit * 3.0)
        fresnel = (1.0 - max(-along, 0.0)) ** 4
        mirror = glossy * (0.035 + 0.42 * fresnel) * _smoothstep(-0.2, 0.7, ry) * open_
        r, g, b = _part_albedo(row, part, accented)
        glow = 0.0
        if part == SHADE:
            glow = 0.28
        elif part == LIGHT:
            glow = 0.75 if kind == LAMP else 0.35
        r = _shade_thing(backdrop, 0, r, lit, above, open_, glow, shine, mirror)
        g = _shade_thing(backdrop, 1, g, lit, above, open_, glow, shine, mirror)
        b = _shade_thing(backdrop, 2, b, lit, above, open_, glow, shine, mirror)
        tag = 100 * (which + 2) + 2 * part + (1 if accented else 0)
        segment = which + 2
    else:
        # ---- ground, cove or wall
        segment, tag = 0, 0
        nx, ny, nz = 0.0, sin_pitch, cos_pitch
        has_wall = setting in (STUDIO, TABLE, BRICK)
        ground_t = -CAMERA_HEIGHT / dy if dy < -1e-6 else 2.0 * FAR
        if has_wall:
            wall_z, cove = backdrop[WALL_Z], backdrop[COVE]
            wall_t = wall_z / dz
            best = min(ground_t, wall_t)
            segment = 1 if ground_t < wall_t else 0
            nx, ny, nz = (0.0, 1.0, 0.0) if segment == 1 else (0.0, 0.0, 1.0)
            if cove > 0.0:
                # The quarter cylinder that joins floor and wall.
                axis_y, axis_z = CAMERA_HEIGHT - cove, -(wall_z + cove)
                quad = dy * dy + dz * dz
                half = axis_y * dy + axis_z * dz
                inside = half * half - quad * (axis_y * axis_y + axis_z * axis_z - cove * cove)
                if inside > 0.0:
                    curve_t = (-half + math.sqrt(inside)) / quad
                    curve_y, curve_z = CAMERA_HEIGHT + curve_t * dy, curve_t * dz
                    if curve_y < cove and curve_z < wall_z + cove:
                        best = curve_t
                        ny, nz = (cove - curve_y) / cove, (wall_z + cove - curve_z) / cove
                        segment = 1 if ny > nz else 0
        elif ground_t < FAR:
            best, segment = ground_t, 1
            nx, ny, nz = 0.0, 1.0, 0.0
        if best < FAR and (segment == 1 or has_wall):
            px, py, pz = best * dx, CAMERA_HEIGHT + best * dy, best * dz
            if setting == STUDIO:
                r, g, b = _wall_albedo(backdrop, px, py)
            elif segment == 1:
                r, g, b = _ground_albedo(backdrop, px, pz, best)
            else:
                r, g, b = _wall_albedo(backdrop, px, py)
            facing = max(nx * kx + ny * ky + nz * kz, 0.0)
            lit = _shadow(things, joints, grids, backdrop, px, py, pz, 0.01)
            open_ = _closeness(things, joints, grids, px, py, pz, nx, ny, nz)
            if has_wall and setting != STUDIO:
                corner = pz - backdrop[WALL_Z] if segment == 1 else py
                open_ *= 0.72 + 0.28 * _smoothstep(0.0, 0.9, corner)
            # A surface in full light shows its own colour, wherever the light stands.
            full = 0.30 + 0.56 * facing / max(ky if segment == 1 else kz, 0.2) if setting != STUDIO else 0.78
            pool = 1.0
            if setting == NIGHT:
                far = ((px - backdrop[POOL_X]) / 2.4) ** 2 + ((pz - backdrop[POOL_Z]) / 2.0) ** 2
                pool = 0.20 + 0.80 * math.exp(-far)
            elif setting == STUDIO:
                far = (px - backdrop[POOL_X]) ** 2 + (py - 0.9) ** 2
                pool = 1.06 - 0.24 * _smoothstep(0.0, 14.0, far)
            if setting == BEACH and pz < backdrop[SHORE] - 0.5:
                lit = 1.0
            hazy = 0.0 if has_wall else 1.0 - math.exp(-((best / 26.0) ** 2))
            at_sea = setting == BEACH and pz < backdrop[SHORE]
            key, shade = full * lit * pool, 0.55 + 0.45 * open_
            r = _shade_ground(backdrop, 0, r, key, open_, shade, hazy, at_sea)
            g = _shade_ground(backdrop, 1, g, key, open_, shade, hazy, at_sea)
            b = _shade_ground(backdrop, 2, b, key, open_, shade, hazy, at_sea)
            tag = 1 if segment == 1 else 2
        else:
            best, segment, tag = FAR, 0, 3
            r, g, b = _sky(backdrop, dx, dy, dz)
    return (
        _display(r),
        _display(g),
        _display(b),
        best,
        nx,
        ny * cos_pitch - nz * sin_pitch,
        ny * sin_pitch + nz * cos_pitch,
        segment,
        tag,
    )


@_jit
def trace(size, window, camera, things, joints, backdrop, grids):
    left, top, side = window
    colour = np.empty((size, size, 3), np.float32)
    depth = np.empty((size, size), np.float32)
    normals = np.empty((size, size, 3), np.float32)
    segmentation = np.empty((size, size), np.uint8)
    tags = np.empty((size, size), np.int32)
    for i in range(size):
        for j in range(size):
            u, v = left + side * ((j + 0.5) / size) - 0.5, 0.5 - (top + side * ((i + 0.5) / size))
            r, g, b, t, nx, ny, nz, segment, tag = _sample(u, v, camera, things, joints, backdrop, grids)
            colour[i, j, 0], colour[i, j, 1], colour[i, j, 2] = r, g, b
            normals[i, j, 0], normals[i, j, 1], normals[i, j, 2] = nx, ny, nz
            depth[i, j], segmentation[i, j], tags[i, j] = t, segment, tag

    # Pixels that differ from a neighbour are sampled again on a rotated grid.
    edge = np.zeros((size, size), np.bool_)
    for i in range(size):
        for j in range(size):
            for ni, nj in ((i + 1, j), (i, j + 1)):
                if ni == size or nj == size:
                    continue
                apart = tags[i, j] != tags[ni, nj]
                bend = 0.0
                for c in range(3):
                    bend += normals[i, j, c] * normals[ni, nj, c]
                    apart = apart or abs(colour[i, j, c] - colour[ni, nj, c]) > 0.07
                if apart or bend < 0.8:
                    edge[i, j] = True
                    edge[ni, nj] = True
    image = np.empty((size, size, 3), np.uint8)
    for i in range(size):
        for j in range(size):
            r, g, b = colour[i, j, 0], colour[i, j, 1], colour[i, j, 2]
            if edge[i, j]:
                r = g = b = 0.0
                for oi, oj in ((0.125, 0.625), (0.375, 0.125), (0.625, 0.875), (0.875, 0.375)):
                    u, v = left + side * ((j + oj) / size) - 0.5, 0.5 - (top + side * ((i + oi) / size))
                    sample = _sample(u, v, camera, things, joints, backdrop, grids)
                    r, g, b = r + 0.25 * sample[0], g + 0.25 * sample[1], b + 0.25 * sample[2]
            image[i, j, 0] = np.uint8(r * 255.0 + 0.5)
            image[i, j, 1] = np.uint8(g * 255.0 + 0.5)
            image[i, j, 2] = np.uint8(b * 255.0 + 0.5)
    return image, depth, normals, segmentation
