"""How well a picture kept what was asked: the subject, the layout, the look, the prompt; and what becomes of it.

Each is a `Score`: a number from 0 to 1 with its method, its range and its ceiling on real photos. `identity`, `layout`,
`style` and `prompt` measure; `pictures` finds what applies to a picture, `ranking` puts several in order.
"""

from engine.scores.ranking import Ranked, rank
from engine.scores.score import Score, harmonic_mean

__all__ = ["Ranked", "Score", "harmonic_mean", "rank"]
