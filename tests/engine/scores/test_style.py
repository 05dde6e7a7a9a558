"""Style: what it must be for a copy, and for a picture of nothing that the reference shows."""

import pytest
from PIL import Image

from engine.samples import load_samples
from engine.scores.style import content_leak, style, style_similarity


def look(name: str) -> Image.Image:
    return Image.open(next(one.file for one in load_samples().looks if one.name == name)).convert("RGB")


def test_a_copy_has_all_of_the_style_and_all_of_the_content() -> None:
    vase = look("watercolour")
    assert style_similarity(vase, vase) == pytest.approx(1, abs=1e-5)
    assert content_leak(vase, vase) > 0.8
    score = style(vase, vase)
    assert score.value < 0.4
    assert "leaked" in score.note


def test_what_the_prompt_names_has_not_leaked() -> None:
    vase = look("watercolour")
    assert content_leak(vase, vase, "a watercolour of a vase") < 0.1
    assert style(vase, vase, "a watercolour of a vase").value > 0.9


def test_other_content_is_no_leak() -> None:
    assert content_leak(look("neon"), look("watercolour")) < 0.1


def test_similarity_knows_no_order() -> None:
    one, other = look("neon"), look("pastel")
    assert style_similarity(one, other) == pytest.approx(style_similarity(other, one), abs=1e-5)
