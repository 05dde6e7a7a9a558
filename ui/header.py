"""The header: Tripod's name, the base in use, and what the machine is doing, in three chips."""

from html import escape

import gradio as gr

from engine.studio import Status, Studio
from ui.cards import Plain, sentence
from ui.theme import MARK

REFRESH_S = 5

# Remembered by the browser; `?__theme=` in the address, which Gradio obeys, comes first.
FLIP = """
const kept = localStorage.getItem('tripod-theme');
if (kept && !location.search.includes('__theme')) document.body.classList.toggle('dark', kept === 'dark');
element.addEventListener('click', () => {
    localStorage.setItem('tripod-theme', document.body.classList.toggle('dark') ? 'dark' : 'light');
});
"""


def build_header(studio: Studio, app: gr.Blocks) -> gr.Dropdown:
    """Lay out the header in the Blocks being built; returns the menu of bases."""
    bases = [(base.title, base.name) for base in studio.bases()]
    with gr.Row(elem_id="header"):
        Plain(f'<div class="brand">{MARK.read_text()}<h1>Tripod</h1></div>', elem_id="brand")
        base = gr.Dropdown(bases, label="Base", show_label=False, container=False, min_width=120, elem_id="base")
        status = Plain(elem_id="status")
        Plain('<button type="button" aria-label="Light or dark">◐</button>', js_on_load=FLIP, elem_id="flip")
    if refused := studio.refused_models():
        Plain("".join(sentence(problem, "bad") for problem in refused), elem_id="refused-models")
    gr.on(
        [app.load, gr.Timer(REFRESH_S).tick],
        lambda: chips(studio.status()),
        outputs=status,
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
    return base


def chips(status: Status) -> str:
    memory = f"{status.memory_used_mb / 1000:.1f} of {status.memory_total_mb / 1000:.0f} GB"
    jobs = {0: "idle", 1: "1 job"}.get(status.jobs, f"{status.jobs} jobs")
    words = (("Device", status.device), ("Memory", memory), ("Queue", jobs))
    chip = '<span class="chip" title="{0}"><small>{0}</small> {1}</span>'
    return "".join(chip.format(escape(name), escape(value)) for name, value in words)
