"""Scores as HTML: every number with its plain label, its method where the pointer rests, and nothing that runs."""

from engine.scores.ranking import Ranked
from engine.scores.score import Score
from ui.scores import bars, explanation, reasons
from ui.tabs.consistency import figures_html


def score(**changes: object) -> Score:
    usual = {"name": "identity", "title": "Subject", "of": "Teddy", "value": 0.5, "raw": 0.5, "method": "mean cosine"}
    return Score(**(usual | {"worst": -1.0, "ceiling": 0.8} | changes))  # type: ignore[arg-type]


def test_a_bar_says_what_how_much_and_what_that_means() -> None:
    html = bars([score()])
    for said in ("Subject", "Teddy", "width:50%", "left:80%", "0.50", "kept in part"):
        assert said in html
    assert bars([]) == ""
    assert bars([score(title="Edges kept", of="Edges")]).count("Edges") == 1


def test_method_range_and_ceiling_are_in_the_hint() -> None:
    assert explanation(score()) == "Mean cosine: 0.50, from -1 to 1. Real pictures reach 0.80 here."
    assert explanation(score(ceiling=None)) == "Mean cosine: 0.50, from -1 to 1."


def test_names_are_text_and_not_markup() -> None:
    html = bars([score(of="<img onerror=x>", note='"<b>"')])
    assert "<img" not in html
    assert "<b>&quot;" not in html
    assert "&lt;img" in html


def test_reasons_are_in_order() -> None:
    ranked = [
        Ranked(picture="a", place=1, overall=1, why="The best."),
        Ranked(picture="b", place=2, overall=0, why="<i>"),
    ]
    assert reasons(ranked) == '<ol class="reasons"><li>The best.</li><li>&lt;i&gt;</li></ol>'
    assert reasons([]) == ""


def test_the_set_score_with_its_parts() -> None:
    html = figures_html({"set_score": 0.625, "identity": 0.9, "variety": 0.5, "cells": [{"rolls": 1}, {"rolls": 3}]})
    for said in (">62<", "Same subject", "90%", "Different pictures", "50%", "1 of 2"):
        assert said in html
    assert "Prompts followed" not in html
