"""The scores separate right from wrong, where the truth is known: what `tests.benchmarks.scores` prints, on a few."""

import pytest

from engine.cache import ModelCache
from engine.scores.layout import CEILING as LAYOUT_CEILING
from engine.scores.prompt import CEILINGS as PROMPT_CEILINGS
from engine.scores.style import CEILING as STYLE_CEILING
from tests.benchmarks.scores import Told, identities, layouts, offline_kinds, prompts, styles

ENOUGH = 0.95


@pytest.fixture(scope="module")
def models() -> ModelCache:
    return ModelCache()


def test_the_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    assert Told(right=(0.9, 0.4), wrong=(0.1, 0.4, 0.8)).auc == pytest.approx((3 + 1.5) / 6)


def test_identity(models: ModelCache) -> None:
    assert identities(models, photos=6, held_out=2).auc >= ENOUGH


@pytest.mark.parametrize("kind", offline_kinds())
def test_layout(kind: str, models: ModelCache) -> None:
    told = layouts(kind, models, count=4)
    assert told.auc >= ENOUGH
    if kind == "openpose":
        assert sum(told.right) / len(told.right) == pytest.approx(LAYOUT_CEILING, abs=0.05)


def test_style(models: ModelCache) -> None:
    told = styles(models, contents=2)
    assert told.auc >= ENOUGH
    assert sum(told.right) / len(told.right) == pytest.approx(STYLE_CEILING, abs=0.05)


def test_prompt(models: ModelCache) -> None:
    told = prompts(models, count=10)
    assert told.auc >= ENOUGH
    assert sum(told.right) / len(told.right) == pytest.approx(PROMPT_CEILINGS["starter"], abs=0.05)
