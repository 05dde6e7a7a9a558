"""The scene that the page gets is the one that was given."""

import html
import json
import re

from engine.controls.openpose import FROM_BLAZEPOSE
from engine.controls.skeletons import JOINTS, LIMBS, as_values, standing
from ui.pose_editor import DRAG, pose_view


def test_people_and_size_reach_the_page() -> None:
    person = as_values([standing((320, 256))])
    view = pose_view("photo.png", person, person[0], 320, 256)
    match = re.search(r'data-scene="([^"]*)"', view)
    assert match is not None
    assert json.loads(html.unescape(match[1])) == {
        "people": person,
        "stands": person[0],
        "width": 320,
        "height": 256,
    }
    assert 'viewBox="0 0 320 256"' in view


def test_the_page_knows_the_skeleton() -> None:
    assert len(JOINTS) == len(FROM_BLAZEPOSE) == 18
    assert f"LIMBS = {json.dumps(LIMBS)}" in DRAG
    assert '"right wrist"' in DRAG
