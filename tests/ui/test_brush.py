"""What the brush is given, and the drawing that comes back."""

import base64
import io
from typing import Any

import pytest
from PIL import Image

from engine.errors import BadImage
from ui.brush import Ink, brush_view, drawing


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "PNG")
    return file.getvalue()


def test_a_drawing_arrives_as_it_was() -> None:
    assert drawing(base64.b64encode(png()).decode()) == png()


@pytest.mark.parametrize("broken", [None, 5, "not base64!", "A" * 60_000_000], ids=["none", "number", "text", "huge"])
def test_a_drawing_that_did_not_arrive_whole_is_refused(broken: Any) -> None:
    with pytest.raises(BadImage, match="did not arrive whole"):
        drawing(broken)


def test_one_ink_needs_no_palette_and_no_fill() -> None:
    view = brush_view("map.png", [Ink("White", "#ffffff")], paper="#000000")
    assert '<div class="inks" hidden>' in view
    assert 'data-tool="fill"' not in view
    assert 'data-paper="#000000"' in view
    assert 'class="below"' not in view


def test_several_inks_are_named_and_the_first_lines_are_restored() -> None:
    view = brush_view("map.png", [Ink("sky", "#06e6e6")], more=[Ink("<b>", "#0907e6")], photo_url="photo.png")
    assert '<div class="inks">' in view
    assert 'data-ink="#06e6e6"' in view
    assert '<option value="#0907e6">&lt;b&gt;</option>' in view
    assert "Restore" in view
    assert 'src="photo.png"' in view
