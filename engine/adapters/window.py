"""During which part of the steps an attachment acts. Knows nothing of what is attached."""

from collections.abc import Callable

Switch = Callable[[int, int], None]
"""Called with (step, total) before every step, from 0: turns on and off what acts during a part of the steps only."""


def within(step: int, total: int, start: float, end: float) -> bool:
    """Whether the step lies wholly between the fractions `start` and `end`: the rule of diffusers' ControlNets."""
    return step / total >= start and (step + 1) / total <= end
