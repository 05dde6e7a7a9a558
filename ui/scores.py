"""Scores on the page: a small bar each with a plain label, and several pictures in order with the reasons.

Nothing here knows how a score is measured, or of tabs.
"""

from collections.abc import Sequence
from html import escape

from engine.studio import Ranked, Score, Studio
from ui.cards import Card


def bars(scores: Sequence[Score]) -> str:
    """One line a score: what it is of, how much of 1 it is with a mark where real photos are, and what that means.

    How it was measured appears when the pointer rests on it, or the keyboard does.
    """
    return f'<div class="scores">{"".join(map(_bar, scores))}</div>' if scores else ""


def _bar(score: Score) -> str:
    of = f" <small>{escape(score.of)}</small>" if score.of and not score.title.startswith(score.of) else ""
    mark = f'<u style="left:{100 * min(1, score.ceiling):.0f}%"></u>' if score.ceiling else ""
    note = f'<p class="aside">{escape(score.note)}</p>' if score.note else ""
    return (
        f'<div class="score {score.level}" tabindex="0" title="{escape(explanation(score))}">'
        f'<span class="of">{escape(score.title)}{of}</span>'
        f'<span class="meter"><i style="width:{100 * score.value:.0f}%"></i>{mark}</span>'
        f"<b>{score.value:.2f}</b><em>{score.label}</em></div>{note}"
    )


def explanation(score: Score) -> str:
    """Method, range and ceiling in two sentences."""
    measured = f"{score.method[0].upper()}{score.method[1:]}: {score.raw:.2f}, from {score.worst:g} to {score.best:g}."
    return measured + (f" Real pictures reach {score.ceiling:.2f} here." if score.ceiling else "")


def ranked_cards(studio: Studio, ranked: Sequence[Ranked]) -> list[Card]:
    return [
        Card(
            id=one.picture,
            image=studio.picture_thumbnail(one.picture),
            badge=f"{one.place}",
            level="good" if one.place == 1 else "warn",
            hint=one.why,
        )
        for one in ranked
    ]


def reasons(ranked: Sequence[Ranked]) -> str:
    """Why each stands where it does, in order."""
    return f'<ol class="reasons">{"".join(f"<li>{escape(one.why)}</li>" for one in ranked)}</ol>' if ranked else ""
