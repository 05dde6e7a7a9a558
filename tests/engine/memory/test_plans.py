"""Which plan is chosen, in numbers and in words. No model, no device."""

from itertools import pairwise

import pytest

from engine.errors import BadSettings, NoRoom
from engine.memory import plans
from engine.memory.plans import GENERATION, TRAINING, Plan, after, available, choose, in_words

GB = 10**9
NEEDS_GB = {"fast": 34, "tiled": 32, "offload": 25, "int8": 18, "8bit": 14, "4bit": 9, "least": 3}


def needed(plan: Plan) -> int:
    return NEEDS_GB[plan.name] * GB


@pytest.mark.parametrize(
    ("free_gb", "name"),
    [(80, "fast"), (36, "tiled"), (28, "offload"), (20, "int8"), (16, "8bit"), (12, "4bit"), (6, "least")],
)
def test_the_first_plan_that_fits_is_taken(free_gb: int, name: str) -> None:
    chosen = choose(GENERATION, needed, free_bytes=free_gb * GB, total_bytes=80 * GB)
    assert chosen.plan.name == name
    assert chosen.fits


def test_where_none_fits_the_one_that_needs_least_is_tried() -> None:
    chosen = choose(GENERATION, needed, free_bytes=2 * GB, total_bytes=12 * GB)
    assert chosen.plan.name == "least"
    assert not chosen.fits
    assert in_words(chosen, "Flux dev") == (
        "Flux dev one layer at a time: needs about 3.0 GB of your 12 GB. Only 2.0 GB are free: it may not be enough."
    )


def test_a_plan_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "find_spec", lambda name: None)
    chosen = choose(GENERATION, needed, free_bytes=80 * GB, total_bytes=80 * GB, asked="4bit")
    assert chosen.plan.name == "4bit"
    assert in_words(chosen, "Flux dev") == "Flux dev in 4 bit with CPU offload: needs about 9.0 GB of your 80 GB."
    with pytest.raises(BadSettings, match=r"'4bit' cannot be followed .* Choose one of: auto, fast, tiled\."):
        choose(available(GENERATION, "cpu"), needed, free_bytes=GB, total_bytes=GB, asked="4bit")


def test_only_what_the_device_can_do_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    def names(all_plans: tuple[Plan, ...], device: str) -> list[str]:
        return [plan.name for plan in available(all_plans, device)]

    monkeypatch.setattr(plans, "find_spec", lambda name: None)
    assert names(GENERATION, "cpu") == ["fast", "tiled"]
    assert names(GENERATION, "mps") == names(GENERATION, "cuda") == ["fast", "tiled", "offload", "least"]
    assert names(TRAINING, "cuda") == ["fast", "recompute"]
    monkeypatch.setattr(plans, "find_spec", lambda name: object())
    assert names(GENERATION, "cuda") == [plan.name for plan in GENERATION]
    assert names(GENERATION, "cpu") == ["fast", "tiled", "int8"]
    assert names(GENERATION, "mps") == ["fast", "tiled", "offload", "least"]
    assert names(TRAINING, "cpu") == ["fast", "recompute"]
    monkeypatch.setattr(plans, "find_spec", lambda name: object() if name == "torchao" else None)
    assert names(GENERATION, "cuda") == ["fast", "tiled", "offload", "int8", "least"]


def test_after_the_last_plan_comes_a_clear_error() -> None:
    for plan, following in pairwise(GENERATION):
        assert after(plan, GENERATION) is following
    with pytest.raises(NoRoom, match="no plan that takes less"):
        after(GENERATION[-1], GENERATION)
