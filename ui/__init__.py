"""The page: a header and six tabs in working order, over one Studio."""

import gradio as gr

from engine.studio import Studio
from ui.api import add_api
from ui.header import build_header
from ui.page import Page
from ui.tabs.caption import CaptionTab
from ui.tabs.consistency import ConsistencyTab
from ui.tabs.control import ControlTab
from ui.tabs.dataset import DatasetTab
from ui.tabs.generate import GenerateTab
from ui.tabs.train import TrainTab

TABS = (DatasetTab, CaptionTab, TrainTab, ControlTab, GenerateTab, ConsistencyTab)
MAX_WAITING_EVENTS = 64
EVENTS_AT_ONCE = 8  # of one kind, such as two people adding photos
CACHE_SWEEP_S, CACHE_LIFE_S = 3600, 86400  # of the copies made for browsers; the originals are in the workspace


def build_app(studio: Studio) -> gr.Blocks:
    with gr.Blocks(
        title="Tripod", analytics_enabled=False, fill_width=True, delete_cache=(CACHE_SWEEP_S, CACHE_LIFE_S)
    ) as app:
        add_api(studio)  # first, so that these names are its own
        base = build_header(studio, app)
        tabs = gr.Tabs(elem_id="tabs")
        page = Page(studio, app, base, tabs)
        with tabs:
            for tab in TABS:
                with gr.Tab(tab.title, id=tab.name, elem_id=f"tab-{tab.name}") as container:
                    tab(page, container)
    return app.queue(max_size=MAX_WAITING_EVENTS, default_concurrency_limit=EVENTS_AT_ONCE)
