"""Ways to keep and run a base, from the fastest to the most frugal, and which one suits the memory that there is.

Pure arithmetic over numbers and names: nothing here touches a device or imports torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from engine.errors import BadSettings, NoRoom

Bits = Literal[16, 8, 4]
Quantiser = Literal["bitsandbytes", "torchao"]
Offload = Literal["none", "parts", "layers"]

LARGE = 10**9
"""Weights from which on a text encoder, too, is kept in 8 or 4 bit where the plan says so."""
BNB: Quantiser = "bitsandbytes"
RUNS_ON: dict[Quantiser, tuple[str, ...]] = {BNB: ("cuda",), "torchao": ("cuda", "cpu")}
"""The devices that a package keeps and multiplies small weights on."""
SPARE = 0.9
"""The share of the free memory that an estimate may fill."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a base is kept and run.

    `bits` is how many a weight of the denoiser and of large text encoders takes at most, by the package `quantiser` (16
    leaves them as they are), `offload` what waits in the computer's memory until it is needed: nothing, the parts that
    are not at work, or all layers but the one at work. `tiled` decodes a picture in overlapping tiles. `recomputes`
    forgets what the layers computed until the way back, when a LoRA is trained (Chen et al., arXiv 1604.06174).
    """

    name: str
    title: str
    bits: Bits = 16
    quantiser: Quantiser | None = None
    offload: Offload = "none"
    tiled: bool = False
    recomputes: bool = False


GENERATION = (
    Plan(name="fast", title=""),
    Plan(name="tiled", title="decoded in tiles", tiled=True),
    Plan(name="offload", title="with CPU offload", tiled=True, offload="parts"),
    Plan(name="int8", title="in 8 bit", tiled=True, bits=8, quantiser="torchao"),
    Plan(name="8bit", title="in 8 bit with CPU offload", tiled=True, offload="parts", bits=8, quantiser=BNB),
    Plan(name="4bit", title="in 4 bit with CPU offload", tiled=True, offload="parts", bits=4, quantiser=BNB),
    Plan(name="least", title="one layer at a time", tiled=True, offload="layers"),
)
TRAINING = (
    Plan(name="fast", title=""),
    Plan(name="recompute", title="with gradient checkpointing", tiled=True, recomputes=True),
    Plan(name="8bit", title="in 8 bit with gradient checkpointing", tiled=True, recomputes=True, bits=8, quantiser=BNB),
    Plan(name="4bit", title="in 4 bit with gradient checkpointing", tiled=True, recomputes=True, bits=4, quantiser=BNB),
)


def available(plans: Sequence[Plan], device: str) -> list[Plan]:
    """Those of the `plans` that the device can follow with the packages that there are; from a CPU there is nowhere to
    offload to."""

    def keeps(quantiser: Quantiser | None) -> bool:
        return quantiser is None or (device in RUNS_ON[quantiser] and find_spec(quantiser) is not None)

    return [plan for plan in plans if keeps(plan.quantiser) and (plan.offload == "none" or device != "cpu")]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A plan with what it needs of the device's memory, in bytes; `fits` is whether what is free is enough."""

    plan: Plan
    needed_bytes: int
    free_bytes: int
    total_bytes: int

    @property
    def fits(self) -> bool:
        return self.needed_bytes <= SPARE * self.free_bytes


def choose(
    plans: Sequence[Plan],
    needed_bytes: Callable[[Plan], int],
    *,
    free_bytes: int,
    total_bytes: int,
    asked: str = "auto",
) -> Chosen:
    """The plan that is `asked` for, or else the first that fits, or else the one that needs least.

    Raises: BadSettings when the plan asked for cannot be followed here.
    """

    def chosen(plan: Plan) -> Chosen:
        return Chosen(plan=plan, needed_bytes=needed_bytes(plan), free_bytes=free_bytes, total_bytes=total_bytes)

    if asked != "auto":
        return chosen(_called(asked, plans))
    tried = []
    for plan in plans:
        tried.append(chosen(plan))
        if tried[-1].fits:
            return tried[-1]
    return min(tried, key=lambda one: one.needed_bytes)


def _called(name: str, plans: Sequence[Plan]) -> Plan:
    plan = next((plan for plan in plans if plan.name == name), None)
    if plan is None:
        raise BadSettings(
            f"The memory plan {name!r} cannot be followed on this device.",
            f"Choose one of: auto, {', '.join(plan.name for plan in plans)}.",
        )
    return plan


def after(plan: Plan, plans: Sequence[Plan]) -> Plan:
    """The next plan down, for when memory ran out with `plan`. Raises: NoRoom when there is none."""
    frugal = plans[[other.name for other in plans].index(plan.name) + 1 :]
    if not frugal:
        raise NoRoom(
            "The device has not enough memory for this, and there is no plan that takes less.",
            "Choose a smaller size, batch or base, or wait until the other jobs are done.",
        )
    return frugal[0]


def in_words(chosen: Chosen, title: str) -> str:
    """Such as "Flux dev in 4 bit with CPU offload: needs about 9.1 GB of your 12 GB."."""
    what = f"{title} {chosen.plan.title}".strip()
    needs = f"{what}: needs about {_size(chosen.needed_bytes)} of your {_size(chosen.total_bytes)}."
    return needs if chosen.fits else f"{needs} Only {_size(chosen.free_bytes)} are free: it may not be enough."


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.0f} GB" if size_bytes >= 9.5e9 else f"{max(size_bytes, 1e8) / 1e9:.1f} GB"
