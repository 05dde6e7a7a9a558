"""What a score is: a number from 0 to 1 with its method, its range and its ceiling; and how several become one.

Nothing here knows of pictures or networks.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from engine.settings import Settings

ScoreName = Literal["identity", "layout", "style", "prompt"]
Level = Literal["good", "warn", "bad"]

LABELS: tuple[tuple[float, str, Level], ...] = (
    (0.85, "kept well", "good"),
    (0.6, "kept in part", "warn"),
    (0.0, "not kept", "bad"),
)
"""From which share of the ceiling on a score is called what."""


@dataclass(frozen=True, kw_only=True)
class Score(Settings):
    """How well a picture kept one thing that was asked of it.

    `value` is from 0 (no better than chance) to 1; `raw` is what `method` gives, from `worst` to `best`. `ceiling` is
    the value of real photos, or renders whose truth is known; None where it is not known. `of` says what was to be
    kept, such as the name of a LoRA; `note` what else there is to know, in a sentence.
    """

    name: ScoreName
    title: str
    value: float
    raw: float
    method: str
    worst: float = 0.0
    best: float = 1.0
    ceiling: float | None = None
    of: str = ""
    note: str = ""

    @property
    def share(self) -> float:
        """The value as a share of what real photos reach, at most 1."""
        return min(1.0, self.value / self.ceiling) if self.ceiling else self.value

    @property
    def label(self) -> str:
        return self._named[1]

    @property
    def level(self) -> Level:
        return self._named[2]

    @property
    def _named(self) -> tuple[float, str, Level]:
        return next(named for named in LABELS if self.share >= named[0])


def clipped(value: float) -> float:
    return float(min(1.0, max(0.0, value)))


def harmonic_mean(values: Iterable[float]) -> float:
    """Of numbers from 0 to 1; 0 as soon as one of them is: nothing makes up for what is wholly lost."""
    numbers = list(values)
    return len(numbers) / sum(1 / number for number in numbers) if min(numbers) > 0 else 0.0
