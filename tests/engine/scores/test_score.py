"""Scores as numbers: shares, labels, and how several become one. Expected values are closed forms."""

import pytest

from engine.errors import BadSettings
from engine.scores.score import Score, clipped, harmonic_mean


def score(value: float, ceiling: float | None = None) -> Score:
    return Score(name="identity", title="Subject", value=value, raw=value, method="cosine", ceiling=ceiling)


@pytest.mark.parametrize(
    ("value", "ceiling", "share"),
    [(0.3, 0.6, 0.5), (0.6, 0.6, 1.0), (0.9, 0.6, 1.0), (0.4, None, 0.4), (0.0, 0.5, 0.0)],
)
def test_a_share_is_of_the_ceiling_and_never_above_one(value: float, ceiling: float | None, share: float) -> None:
    assert score(value, ceiling).share == pytest.approx(share)


@pytest.mark.parametrize(
    ("value", "label", "level"),
    [(0.86, "kept well", "good"), (0.7, "kept in part", "warn"), (0.59, "not kept", "bad"), (0.0, "not kept", "bad")],
)
def test_labels_are_plain(value: float, label: str, level: str) -> None:
    assert (score(value).label, score(value).level) == (label, level)


def test_the_harmonic_mean_is_that_of_the_books() -> None:
    assert harmonic_mean([0.5, 1.0]) == pytest.approx(2 / 3)
    assert harmonic_mean([0.25, 0.5, 1.0]) == pytest.approx(3 / 7)
    assert harmonic_mean([1.0, 1.0, 0.0]) == 0


def test_clipping() -> None:
    assert [clipped(value) for value in (-0.5, 0.25, 1.5)] == [0, 0.25, 1]


def test_a_score_comes_back_from_json() -> None:
    one = score(0.5, 0.6)
    assert Score.from_dict(one.to_dict()) == one
    with pytest.raises(BadSettings):
        Score.from_dict(one.to_dict() | {"name": "beauty"})
