"""Pictures to choose from: cards with a picture, a title, a note and a badge, and the pieces of HTML around them.

A tab gives `Card`s and gets the id of the card that was chosen. All text is escaped here, on the server: Gradio's own
HTML templates run whatever stands in `${...}` inside a value. (Functions instead of subclasses of its components: for
each of those Gradio writes a stub file beside the source.) Nothing here knows of datasets or jobs.
"""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import gradio as gr
from gradio.processing_utils import save_file_to_cache
from gradio.utils import get_upload_folder

Level = Literal["good", "warn", "bad"]
Look = Literal["squares", "squares small", "tiles", "kinds", "strip", "dots"]


def served(file: Path, name: str = "") -> str:
    """A copy of `file` that the page may fetch, bytes unchanged: the workspace itself is never served.

    `name` is what a download is called, if not as the file.
    """
    copy = Path(save_file_to_cache(file, cache_dir=get_upload_folder()))
    named = copy.with_name(name or copy.name)
    if not named.exists():
        shutil.copyfile(copy, named)
    return str(named)


def url(file: Path) -> str:
    return f"gradio_api/file={quote(served(file))}"


@dataclass(frozen=True, kw_only=True)
class Window:
    """The part of a picture that a square card shows, in shares of the square's side (so 1 is a whole card)."""

    left: float = 0.0
    top: float = 0.0
    width: float = 1.0

    @property
    def style(self) -> str:
        return f"left:{-100 * self.left:.2f}%;top:{-100 * self.top:.2f}%;width:{100 * self.width:.2f}%"


@dataclass(frozen=True, kw_only=True)
class Card:
    """`badge` is a word or two over the picture, coloured by `level`; `hint` appears when the pointer rests on it.
    With a reason in `off` the card is greyed, says it, and cannot be chosen."""

    id: str
    title: str = ""
    note: str = ""
    image: Path | None = None
    window: Window | None = None
    badge: str = ""
    level: Level = "good"
    hint: str = ""
    chosen: bool = False
    off: str = ""

    def html(self) -> str:
        name = escape(self.title or self.hint or "picture")
        picture = badge = text = ""
        if self.image is not None:
            style = f' style="{self.window.style}"' if self.window else ""
            frame = "frame windowed" if self.window else "frame"
            picture = f'<span class="{frame}"><img src="{url(self.image)}" alt="{name}" loading="lazy"{style}></span>'
        if self.badge:
            badge = f'<span class="badge {self.level}">{escape(self.badge)}</span>'
        if self.title or self.note:
            said = self.off or self.note
            note = f"<small>{escape(said)}</small>" if said else ""
            text = f'<span class="words"><b>{escape(self.title)}</b>{note}</span>'
        states = f'aria-pressed="{str(self.chosen).lower()}" aria-disabled="{str(bool(self.off)).lower()}"'
        return (
            f'<button type="button" class="card" data-id="{escape(self.id)}" {states}'
            f' title="{escape(self.hint)}" aria-label="{name}">{picture}{badge}{text}</button>'
        )


# One listener on the part, not one on each card: the cards are replaced whenever the value changes.
CHOOSE = """
element.addEventListener('click', event => {
    const card = event.target.closest('.card:not([aria-disabled="true"])');
    if (card) trigger('select', {id: card.dataset.id});
});
"""


def grid(cards: Sequence[Card], look: Look, empty: str = "") -> str:
    """The cards as HTML, or the sentence `empty` where they will be. `look` is a class of style.css: `squares` for
    photos, `tiles` for samples, `kinds` for text, `strip` for one row, `dots` for tiny ones."""
    if not cards:
        return f'<p class="empty">{escape(empty)}</p>' if empty else ""
    return f'<div class="cards {look}">{"".join(card.html() for card in cards)}</div>'


Plain = partial(gr.HTML, apply_default_css=False)
Choice = partial(Plain, js_on_load=CHOOSE)
"""Holds a `grid`; its `select` event carries the `id` of the card."""


def headline(title: str, text: str) -> gr.HTML:
    """What this tab is for, and the one line on what to do here."""
    return Plain(f'<header class="headline"><h2>{escape(title)}</h2><p>{escape(text)}</p></header>')


def label(text: str, note: str = "") -> gr.HTML:
    small = f" <small>{escape(note)}</small>" if note else ""
    return Plain(f'<p class="section">{escape(text)}{small}</p>')


def sentence(text: str, level: Level = "good") -> str:
    """One sentence beside the thing it is about."""
    return f'<p class="notice {level}" role="{"alert" if level == "bad" else "status"}">{escape(text)}</p>'


def listing(lines: Iterable[tuple[Level, str]]) -> str:
    return "".join(sentence(text, level) for level, text in lines)
