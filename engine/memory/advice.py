"""Which plan a job gets on this machine, and what happens when memory runs out all the same."""

from collections.abc import Callable
from typing import TypeVar

from engine.cache import ModelCache, device_name, free_bytes, memory
from engine.families import Base
from engine.jobs import Work, ran_out_of_memory
from engine.memory import estimate
from engine.memory.plans import GENERATION, TRAINING, Chosen, Plan, after, available, choose
from engine.settings import GenerateSettings, TrainSettings
from engine.workspace import Workspace

T = TypeVar("T")


def for_picture(settings: GenerateSettings, base: Base, workspace: Workspace, cache: ModelCache) -> Chosen:
    """What the cache holds is either used or makes room. Raises: MissingModel, NotFound, BadSettings."""
    device = device_name()
    loras = [workspace.lora_path(use.lora) for use in settings.loras]
    return choose(
        available(GENERATION, device),
        lambda plan: estimate.generation(settings, base, plan, device, loras).needed_bytes,
        free_bytes=free_bytes() + cache.used_bytes(),
        total_bytes=_total_bytes(),
        asked=settings.memory,
    )


def for_training(settings: TrainSettings, base: Base, cache: ModelCache | None = None) -> Chosen:
    """As when the `cache` has given the device back. Raises: MissingModel, BadSettings."""
    device = device_name()
    return choose(
        available(TRAINING, device),
        lambda plan: estimate.training(settings, base, plan, device).needed_bytes,
        free_bytes=free_bytes() + (cache.used_bytes() if cache else 0),
        total_bytes=_total_bytes(),
        asked=settings.memory,
    )


def backing_off(
    do: Callable[[Plan], T], plan: Plan, plans: tuple[Plan, ...], work: Work, release: Callable[[], None]
) -> T:
    """`do` it as planned. Whenever memory runs out: `release` what is not in use, take the next plan down, say so, and
    go on. Raises: NoRoom when no plan is left."""
    possible = available(plans, device_name())
    while True:
        try:
            return do(plan)
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
        plan = after(plan, possible)  # not in the handler: the error holds on to all that was in use
        release()
        work.note(f"Memory ran out. Trying again, {plan.title}.")


def _total_bytes() -> int:
    return int(memory()[1] * 1e6)
