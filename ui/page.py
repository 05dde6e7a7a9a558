"""What the tabs share: the studio, what is chosen, what one tab hands to a later one, and how events are wired.

Tabs know this and not each other: "Use it" sets a state here, and the tab that wants it listens.
"""

import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from engine.errors import TripodError
from engine.studio import Studio
from ui.cards import sentence

log = logging.getLogger("tripod")

PROGRESS = gr.Progress()
"""For handlers that tell how far they are: Gradio fills it in where it is a default."""

AS_UPLOADED: dict[str, Any] = {"preprocess": False}
"""For events that take a `gr.Image`: they get {"path": ...}. Gradio itself would open the file, and answer what it
cannot open with nothing but "Error"; the engine opens it within bounds and says what is wrong."""

IN_TURN: dict[str, Any] = {"trigger_mode": "multiple", "concurrency_limit": 1}
"""For events that say how things stand: one after another, so that what was said last is true. ("always_last" fires the
whole event again, for all who listen to it: two on the same event call each other up for ever.)"""

# Only obscures what the browser keeps; a fixed one lets it be read again after a restart.
BROWSER_SECRET = "three-legs"


class Page:
    """Made inside the Blocks being built, before the tabs.

    `dataset` is the id of the photo set in hand; `new_lora` and `new_map` are what the last "Use it" handed over,
    `edit_map` the layout that was last handed over to be edited. `silent` are the options of events that show no
    progress.
    """

    def __init__(self, studio: Studio, app: gr.Blocks, base: gr.Dropdown, tabs: gr.Tabs) -> None:
        self.studio, self.app, self.base, self.tabs = studio, app, base, tabs
        # What must live though nobody sees it: inside a tab it would sleep until the tab is first opened.
        self._offstage = gr.Column(min_width=0, elem_id="offstage")
        # After every event the browser looks up, one by one, each component that any event might show its progress on:
        # by default all outputs of all events, which kept it busy for seconds. These events show none, in one place.
        self.silent: dict[str, Any] = {
            "api_visibility": "private",
            "show_progress": "hidden",
            "show_progress_on": self.signal(),
        }
        self.dataset = self.remembered("dataset", "")
        self.new_lora, self.new_map, self.edit_map = gr.State(), gr.State(), gr.State()

    def remembered(self, name: str, default: Any) -> gr.BrowserState:
        """A value that the visitor's browser keeps across refreshes and restarts."""
        with self._offstage:
            return gr.BrowserState(default, storage_key=f"tripod-{name}", secret=BROWSER_SECRET)

    def signal(self) -> gr.HTML:
        """A word that one event leaves for another, which waits for its change."""
        with self._offstage:
            return gr.HTML()

    def timer(self, every_s: float) -> gr.Timer:
        with self._offstage:
            return gr.Timer(every_s, active=False)

    def on(
        self,
        triggers: Callable[..., Any] | Sequence[Callable[..., Any]],
        handler: Callable[..., Any],
        *,
        inputs: Mapping[str, gr.components.Component] | None = None,
        outputs: Sequence[Any] = (),
        notice: gr.HTML,
        **options: Any,
    ) -> gr.events.Dependency:
        """Run `handler`, with inputs by name, on `triggers`; it returns {component: value}. Errors go to `notice`."""
        options = self.silent | options
        return gr.on(
            triggers if isinstance(triggers, Sequence) else [triggers],
            in_plain_words(handler, notice),
            inputs_kwargs=dict(inputs or {}),
            outputs=[*outputs, notice],
            **options,
        )

    def then(
        self,
        event: gr.events.Dependency,
        handler: Callable[..., Any],
        *,
        inputs: Mapping[str, gr.components.Component] | None = None,
        outputs: Sequence[Any] = (),
        notice: gr.HTML,
        **options: Any,
    ) -> gr.events.Dependency:
        """Run `handler` after `event` succeeded; `notice` keeps what that event said."""
        options = self.silent | options
        return event.success(
            in_plain_words(handler, notice, clear=False),
            inputs_kwargs=dict(inputs or {}),
            outputs=[*outputs, notice],
            **options,
        )

    def go(self, tab: str) -> dict[Any, Any]:
        return {self.tabs: gr.Tabs(selected=tab)}


def handed(**what: Any) -> dict[str, Any]:
    """What "Use it" hands over; the time makes it new also when it is the same thing again."""
    return {"at_s": time.time(), **what}


def into_view(elem_id: str) -> str:
    """JavaScript that scrolls an element onto the screen, if it is not there already."""
    return f"() => document.getElementById('{elem_id}')?.scrollIntoView({{block: 'nearest', behavior: 'smooth'}})"


def explain(error: Exception) -> str:
    """The sentence a person is shown. What nobody foresaw goes to the server's log with its traceback."""
    if isinstance(error, TripodError):
        return str(error)
    log.error("unexpected error", exc_info=error)
    return "Something went wrong inside Tripod. Nothing was lost; the details are in the server's log."


def in_plain_words(handler: Callable[..., Any], notice: gr.HTML, *, clear: bool = True) -> Callable[..., Any]:
    """`handler`, clearing `notice` when it succeeds (if `clear`) and filling it with one sentence when it fails."""

    @functools.wraps(handler)
    def run(*args: Any, **kwargs: Any) -> dict[Any, Any]:
        try:
            return ({notice: ""} if clear else {}) | handler(*args, **kwargs)
        except Exception as error:
            return {notice: sentence(explain(error), "bad")}

    return run
