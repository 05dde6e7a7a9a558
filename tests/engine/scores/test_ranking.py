"""Best of N: the order by closed forms, and reasons that name what made the difference."""

from engine.scores.ranking import overall, rank
from engine.scores.score import Score


def scores(subject: float, layout: float) -> list[Score]:
    return [
        Score(name="identity", title="Subject", value=subject, raw=subject, method="cosine", ceiling=0.8),
        Score(name="layout", title="Edges kept", value=layout, raw=layout, method="F1"),
    ]


def test_the_best_keeps_everything_rather_than_one_thing_alone() -> None:
    """Shares (0.5, 0.5) have a harmonic mean of 0.5; (1, 0.2) one of 1/3, though their mean is higher."""
    ranked = rank({"one-sided": scores(0.8, 0.2), "even": scores(0.4, 0.5)})
    assert [one.picture for one in ranked] == ["even", "one-sided"]
    assert [one.place for one in ranked] == [1, 2]
    assert abs(ranked[1].overall - 1 / 3) < 1e-9


def test_reasons_name_what_is_behind_and_by_how_much() -> None:
    best, other = rank({"other": scores(0.4, 0.9), "best": scores(0.8, 0.9)})
    assert "subject 100%" in best.why
    assert "edges kept 90%" in best.why
    assert other.why == "Behind the best in subject 50% against 100%."


def test_one_lost_score_is_not_made_up_for() -> None:
    assert overall(scores(0.8, 0.0)) == 0


def test_pictures_without_scores_come_last_in_their_order() -> None:
    ranked = rank({"a": [], "b": scores(0.1, 0.1), "c": []})
    assert [(one.picture, one.place) for one in ranked] == [("b", 1), ("a", 2), ("c", 3)]
    assert ranked[2].why == "It was not scored."
