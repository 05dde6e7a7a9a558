"""Body poses: BlazePose finds people and their joints, which become OpenPose's 18 keypoints and its coloured skeleton.

MediaPipe's two stages (Bazarevsky et al. 2020): a detector gives each person's hips and size, then a network reads the
joints in the upright square that follows. The drawing is controlnet_aux's, which OpenPose ControlNets are trained on.
"""

import cv2
import numpy as np
from PIL import Image

from engine.controls.blaze import Detector, find, network, sigmoid
from engine.errors import NothingDetected

PEOPLE = Detector(file="pose/pose_detection.tflite", side_px=224, grids=((28, 2), (14, 2), (7, 6)), min_score=0.5)
LANDMARKS = "pose/pose_landmark_full.tflite"
LANDMARK_SIDE_PX = 256
ROOM = 1.25  # how much larger than the circle around the body its square is
MIN_PRESENCE = 0.9  # the samples' people reach 0.97; at MediaPipe's 0.5 four of their sixty things pass for people

# OpenPose's order: nose, neck, right arm, left arm, right leg, left leg, eyes, ears. BlazePose has no neck
FROM_BLAZEPOSE = (0, 0, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)
NECK, RIGHT_SHOULDER, LEFT_SHOULDER = 1, 2, 5
LIMB_ENDS = {4: 3, 7: 6, 10: 9, 13: 12}  # wrists and ankles, with the elbow or knee before them

WORKING_SIDE_PX = 1024
CANVAS_SIDE_PX = 512  # controlnet_aux's strokes have one width, meant for pictures with a shorter side of up to 512 px


def keypoints(image: Image.Image) -> list[np.ndarray]:
    """One (18, 3) array per person: x and y in pixels, which may lie outside, and how surely it is seen, 0..1."""
    small = image.convert("RGB")
    small.thumbnail((WORKING_SIDE_PX, WORKING_SIDE_PX))
    picture = np.asarray(small)
    scale = np.array([image.width / small.width, image.height / small.height, 1.0])

    people = []
    for found in find(PEOPLE, picture):
        to_picture = _upright_square(hips=found.points[0], rim=found.points[1])
        square = cv2.warpAffine(
            picture, to_picture, (LANDMARK_SIDE_PX, LANDMARK_SIDE_PX), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        landmarks, presence, _, heatmaps, _ = network(LANDMARKS)(square / 255)
        if presence[0] >= MIN_PRESENCE:
            joints = _refined(landmarks.reshape(-1, 5), heatmaps)
            joints[:, :2] = joints[:, :2] @ to_picture[:, :2].T + to_picture[:, 2]
            people.append(_to_openpose(joints) * scale)
    return people


def _upright_square(*, hips: np.ndarray, rim: np.ndarray) -> np.ndarray:
    """The 2x3 map from the landmark network's square to the picture; `rim` is above the hips, on the body's circle."""
    up = rim - hips
    x_axis = np.array([-up[1], up[0]])
    scaled_rotation = np.stack([x_axis, -up], axis=1) * (2 * ROOM / LANDMARK_SIDE_PX)
    centre = np.full(2, LANDMARK_SIDE_PX / 2)
    return np.concatenate([scaled_rotation, (hips - scaled_rotation @ centre)[:, None]], axis=1)


def _refined(landmarks: np.ndarray, heatmaps: np.ndarray, reach: int = 4, min_confidence: float = 0.5) -> np.ndarray:
    """Landmarks (n, 5: x, y, z, visibility, presence) moved to the mass of their heatmaps (64, 64, n) around them,
    as x, y and confidence, (n, 3). After MediaPipe's RefineLandmarksFromHeatmapCalculator."""
    cells = heatmaps.shape[0]
    cell_px = LANDMARK_SIDE_PX / cells
    confidence = sigmoid(landmarks[:, 3:]).min(axis=1, keepdims=True)
    joints = np.concatenate([landmarks[:, :2], confidence], axis=1)
    for joint, heat in zip(joints, np.moveaxis(sigmoid(heatmaps), -1, 0), strict=True):
        x, y = (joint[:2] / cell_px).astype(int)
        rows, columns = (slice(max(0, centre - reach), max(0, centre + reach + 1)) for centre in (y, x))
        near = heat[rows, columns]
        if near.size and near.max() >= min_confidence:
            row, column = np.mgrid[rows, columns][:, : near.shape[0], : near.shape[1]]
            joint[:2] = np.array([(near * column).sum(), (near * row).sum()]) / near.sum() * cell_px
    return joints


def _to_openpose(joints: np.ndarray) -> np.ndarray:
    person = joints[list(FROM_BLAZEPOSE)]
    shoulders = person[[RIGHT_SHOULDER, LEFT_SHOULDER]]
    person[NECK] = [*shoulders[:, :2].mean(axis=0), shoulders[:, 2].min()]
    return person


def draw(people: list[np.ndarray], size: tuple[int, int], min_confidence: float = 0.5) -> Image.Image:
    """OpenPose's skeletons on black, as (width, height) in `size`, without joints below `min_confidence` or outside.

    Larger pictures are drawn at `CANVAS_SIDE_PX` and enlarged, as in controlnet_aux: strokes keep their weight.
    """
    from controlnet_aux.open_pose import util
    from controlnet_aux.open_pose.body import Keypoint

    scale = min(1, CANVAS_SIDE_PX / min(size))
    width, height = (round(side * scale) for side in size)
    canvas = np.zeros((height, width, 3), np.uint8)
    for person in people:
        joints = [
            Keypoint(x, y) if confidence >= min_confidence and 0 <= x < 1 and 0 <= y < 1 else None
            for x, y, confidence in person / [*size, 1]
        ]
        for end, before in LIMB_ENDS.items():
            if joints[before] is None:  # OpenPose finds joints limb by limb, so that no hand floats alone
                joints[end] = None
        canvas = util.draw_bodypose(canvas, joints)  # type: ignore[arg-type]
    return Image.fromarray(canvas).resize(size, Image.Resampling.BILINEAR)


def detect(image: Image.Image, *, min_confidence: float) -> Image.Image:
    """The skeletons of everyone in the picture. Raises: NothingDetected."""
    skeletons = draw(keypoints(image), image.size, min_confidence)
    if skeletons.getbbox() is None:
        raise NothingDetected(
            "No person was found in this picture.", "Use one that shows a person, or another control."
        )
    return skeletons
