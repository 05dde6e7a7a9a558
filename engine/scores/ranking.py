"""Best of N: pictures in order, the best first, each with a sentence on why it stands there. Knows scores only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.scores.score import Score, harmonic_mean

CLOSE = 0.03  # shares that differ by less are called equal


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A picture by its id, its place from 1, what it scored over all (0 to 1), and why it stands there."""

    picture: str
    place: int
    overall: float
    why: str


def overall(scores: Sequence[Score]) -> float:
    """The harmonic mean of the shares of what real pictures reach, so that no score makes up for a lost one."""
    return harmonic_mean(score.share for score in scores)


def rank(scored: Mapping[str, Sequence[Score]]) -> list[Ranked]:
    """The pictures of one request by their scores; those without any come last. Equal ones keep their order."""
    measured = {picture: overall(scores) for picture, scores in scored.items() if scores}
    order = sorted(measured, key=lambda picture: -measured[picture])
    unmeasured = [picture for picture in scored if picture not in measured]
    ranked = [
        Ranked(picture=picture, place=place, overall=measured[picture], why=_why(scored[picture], scored[order[0]]))
        for place, picture in enumerate(order, 1)
    ]
    return ranked + [
        Ranked(picture=picture, place=place, overall=0.0, why="It was not scored.")
        for place, picture in enumerate(unmeasured, len(order) + 1)
    ]


def _why(own: Sequence[Score], best: Sequence[Score]) -> str:
    if own is best:
        said = [f"{called(score)} {100 * score.share:.0f}%" for score in own]
        return f"The best of all together: {', '.join(said)} of what real pictures reach."
    behind = [
        f"{called(score)} {100 * score.share:.0f}% against {100 * other.share:.0f}%"
        for score, other in zip(own, best, strict=False)
        if other.share - score.share > CLOSE
    ]
    return f"Behind the best in {', '.join(behind)}." if behind else "As good as the best, by a hair."


def called(score: Score) -> str:
    """What a score is about, in a word or two: "subject", "edges kept"."""
    return score.title.lower()
