"""The loss table: what the plot is given. The scale that a learning rate holds for, and what a base cannot learn."""

from pathlib import Path

import gradio as gr
import pytest

from engine.jobs import Event
from engine.studio import Studio
from engine.workspace import Workspace
from ui.header import build_header
from ui.page import Page
from ui.tabs.train import PLOT_POINTS, TrainTab, effective_scale, loss_table


def metrics(step: int, **values: float) -> Event:
    return Event(kind="metrics", time_s=0, step=step, values=values)


def test_each_loss_is_a_series() -> None:
    table = loss_table([metrics(1, loss=0.5, learning_rate=1e-3), metrics(2, loss=0.4, held_out_loss=0.6)])
    assert table.to_dict("records") == [
        {"step": 1, "loss": 0.5, "photos": "training"},
        {"step": 2, "loss": 0.4, "photos": "training"},
        {"step": 2, "loss": 0.6, "photos": "held out"},
    ]


def test_a_step_repeated_after_a_resume_counts_once() -> None:
    table = loss_table([metrics(1, loss=0.5), metrics(2, loss=0.4), metrics(2, loss=0.3), metrics(3, loss=0.2)])
    assert table["loss"].tolist() == [0.5, 0.3, 0.2]


def test_long_runs_become_means_over_equal_stretches() -> None:
    count = 4 * PLOT_POINTS
    table = loss_table([metrics(step, loss=float(step)) for step in range(1, count + 1)])
    assert len(table) == PLOT_POINTS
    assert table["step"].tolist() == list(range(4, count + 1, 4))
    assert table["loss"].iloc[0] == (1 + 2 + 3 + 4) / 4


def test_no_metrics_no_rows() -> None:
    assert loss_table([Event(kind="started", time_s=0)]).empty


def test_the_effective_scale_is_alpha_over_rank() -> None:
    """The defaults of kohya's scripts for Flux (rank 16, alpha 1) and those of ai-toolkit (16 and 16)."""
    assert "<b>0.0625</b>" in effective_scale(16, 1.0)
    assert "about 0.062 times as fast" in effective_scale(16, 1.0)
    assert "<b>1</b>" in effective_scale(16, 16.0)
    assert "learns as fast." in effective_scale(16, 16.0)


@pytest.mark.parametrize(
    ("base", "reason"),
    [("sdxl", ""), ("z_image", "LoRAs for Z-Image have no part for the text encoder.")],
)
def test_a_text_encoder_that_cannot_learn_is_greyed_with_the_reason(tmp_path: Path, base: str, reason: str) -> None:
    studio = Studio(Workspace(tmp_path / "workspace"))
    with gr.Blocks() as app:
        bases, tabs = build_header(studio, app), gr.Tabs()
        with tabs, gr.Tab("Train") as container:
            tab = TrainTab(Page(studio, app, bases, tabs), container)
    rate = tab.preset(goal="product", base=base, quality="quick")[tab.inputs["text_encoder_learning_rate"]]
    assert (rate.value, rate.interactive) == (0, not reason)
    assert rate.info == (reason or "0 leaves it as it is")
