"""The Train tab: three choices and a start; the loss and samples while it runs; the LoRA when it is done."""

from collections import defaultdict
from functools import partial
from html import escape
from typing import Any

import gradio as gr
import pandas as pd

from engine.errors import BadSettings
from engine.jobs import Event, Job
from engine.settings import Goal, TrainSettings
from engine.workspace import LoraRecord
from ui import form
from ui.cards import Card, Choice, Plain, grid, headline, label, served
from ui.page import Page, handed, into_view
from ui.watch import Watch, in_words

QUALITIES = [("Quick", "quick"), ("Standard", "standard"), ("Best", "best")]
EXPERT = [name for name, field in form.TRAIN.items() if field.expert]
COSTLY = ("steps", "batch_size", "resolution")  # the settings that decide how long it takes
MEMORY = ("base", "rank", "batch_size", "resolution", "text_encoder_learning_rate", "memory")
SERIES = {"loss": "training", "held_out_loss": "held out"}
COLORS = {"training": "#d4501c", "held out": "#1d7f78"}
NO_SAMPLES = grid([], "strip", "Samples appear here while it learns.")
lora_tiles = partial(grid, look="tiles", empty="What you train appears here.")
PLOT_POINTS = 240  # of each series; the plot takes 500 in all


class TrainTab:
    """`lora` is the id of the LoRA that the buttons under the list are about."""

    name, title = "train", "Train"

    def __init__(self, page: Page, tab: gr.Tab) -> None:
        self.page, self.studio = page, page.studio
        self.lora = gr.State("")
        bases = [(base.title, base.name) for base in self.studio.bases()]
        with gr.Row(elem_classes=["columns"]):
            with gr.Column(scale=5, elem_classes=["sheet"]):
                headline("Teach it to Tripod", "Say what it is and how good it should get; the rest is chosen for you.")
                goals = list(form.TRAIN["goal"].choices)
                self.inputs: dict[str, Any] = {
                    "dataset": form.build(TrainSettings, "dataset", choices=[], elem_id="train-set"),
                    "name": form.build(TrainSettings, "name", elem_id="lora-name"),
                    "goal": gr.Radio(goals, value="product", label=form.TRAIN["goal"].label, elem_classes=["segments"]),
                }
                self.quality = gr.Radio(
                    QUALITIES, value="standard", label="How good?", elem_classes=["segments"], elem_id="quality"
                )
                self.inputs["base"] = form.build(TrainSettings, "base", choices=bases)
                with gr.Accordion("Expert", open=False, elem_id="train-expert"):
                    with gr.Row(elem_classes=["form"]):
                        for name in EXPERT:
                            self.inputs[name] = form.build(TrainSettings, name, min_width=180)
                    self.scale = Plain(elem_id="effective-scale")
                self.estimate = Plain(elem_id="estimate")
                self.needs = Plain(elem_id="training-needs")
                self.start_button = gr.Button("Start training", variant="primary", elem_id="start-training")
                self.notice = Plain(elem_id="train-notice")
            with gr.Column(scale=7):
                self.watch = Watch(page, "train", resumable=True, every_s=1.0)
                self.plot = gr.LinePlot(
                    x="step",
                    y="loss",
                    color="photos",
                    color_map=COLORS,
                    title="Loss",
                    height=230,
                    visible=False,
                    buttons=[],
                    elem_id="loss",
                )
                label("How it sees your subject, step by step")
                self.strip = Plain(NO_SAMPLES, elem_id="samples")
                with gr.Column(visible=False) as self.open_box:
                    label("Not finished", "choose one to see it, go on with it or discard it")
                    self.open_jobs = Choice(elem_id="open-trainings")
                label("Your LoRAs")
                self.loras = Choice(lora_tiles([]), elem_id="loras")
                with gr.Row(visible=False, elem_classes=["actions"]) as self.actions:
                    self.use = gr.Button("Use it in a picture", variant="primary", elem_id="use-lora")
                    self.download = gr.DownloadButton("Download", min_width=100)
                    self.forget = gr.Button("Delete", variant="stop", min_width=100)
        self._wire(tab)

    def _wire(self, tab: gr.Tab) -> None:
        page, inputs, on = self.page, self.inputs, partial(self.page.on, notice=self.notice)
        subject = [page.dataset, *(inputs[name] for name in ("dataset", "name", "trigger", "class_name"))]
        list_of_loras = [self.loras, self.lora, self.actions, self.download]
        on([page.app.load, tab.select], self.show, inputs={"lora": self.lora}, outputs=list_of_loras)
        on(
            [page.app.load, tab.select],
            self.choose,
            inputs={"dataset_id": page.dataset, "shown": inputs["dataset"]},
            outputs=subject,
        )
        on(
            inputs["dataset"].input,
            self.choose,
            inputs={"dataset_id": inputs["dataset"]},
            outputs=subject,
        )
        on(
            page.base.change,
            lambda *, base: {inputs["base"]: base},
            inputs={"base": page.base},
            outputs=[inputs["base"]],
        )
        choices = {"goal": inputs["goal"], "base": inputs["base"], "quality": self.quality}
        expert = [inputs[name] for name in EXPERT]
        on([page.app.load, inputs["base"].change], self.preset, inputs=choices, outputs=expert)
        by_hand = [inputs["goal"].input, self.quality.input, inputs["base"].input]
        chosen = on(by_hand, self.preset, inputs=choices, outputs=expert)
        on(
            [inputs[name].change for name in ("base", *COSTLY)],
            self.estimate_time,
            inputs={name: inputs[name] for name in ("base", *COSTLY)},
            outputs=[self.estimate],
        )
        taking = {name: inputs[name] for name in MEMORY}
        needed = {"inputs": taking, "outputs": [self.needs], "trigger_mode": "always_last"}
        # When a person comes here or changes something, not as the page starts: it takes the heavy libraries
        page.then(chosen, self.needed, notice=self.notice, **needed)
        on([tab.select, *(taking[name].input for name in MEMORY if name != "base")], self.needed, **needed)
        scale = {name: inputs[name] for name in ("rank", "alpha")}
        on([page.app.load, *(part.change for part in scale.values())], self.weigh, inputs=scale, outputs=[self.scale])
        followed = [self.plot, self.strip, self.open_box, self.open_jobs, *list_of_loras]
        on(
            self.start_button.click,
            self.start,
            inputs=inputs,
            outputs=[*self.watch.outputs, self.plot, self.strip],
        ).then(js=into_view("train-watch"))
        self.watch.follow(self.follow, followed)
        token, listed = {"token": self.watch.token}, [self.open_box, self.open_jobs]
        on([page.app.load, tab.select], self.list_open, inputs=token, outputs=listed)
        page.then(
            self.watch.discarded,
            self.after_discard,
            inputs=token,
            outputs=[*listed, self.plot, self.strip],
            notice=self.notice,
        )
        on(self.open_jobs.select, self.attend, outputs=[*self.watch.outputs, *followed])
        on(self.loras.select, self.pick, outputs=list_of_loras)
        on(self.use.click, self.use_it, inputs={"lora": self.lora}, outputs=[page.new_lora, page.tabs])
        on(
            self.forget.click,
            self.delete,
            inputs={"lora": self.lora},
            outputs=list_of_loras,
            js="id => confirm('Delete this LoRA for good?') ? id : ''",
        )

    # Handlers

    def choose(self, *, dataset_id: str, shown: str | None = None) -> dict[Any, Any]:
        """Take the photo set in hand, with its own trigger word and class. A name given to the set `shown` stays."""
        sets = self.studio.datasets()
        choices = gr.Dropdown([(f"{d.name} ({len(d.photos)} photos)", d.id) for d in sets], value=dataset_id or None)
        dataset = next((d for d in sets if d.id == dataset_id), None)
        if dataset is None:
            return {self.inputs["dataset"]: choices}
        return {
            self.page.dataset: dataset_id,
            self.inputs["dataset"]: choices,
            self.inputs["trigger"]: dataset.trigger,
            self.inputs["class_name"]: dataset.class_name,
            **({self.inputs["name"]: dataset.name} if dataset_id != shown else {}),
        }

    def preset(self, *, goal: Goal, base: str, quality: str) -> dict[Any, Any]:
        preset = self.studio.training_preset(goal, base, quality)
        why_not = self.studio.why_not(base).text_encoder()
        return {
            **{self.inputs[name]: value for name, value in preset.items()},
            self.inputs["text_encoder_learning_rate"]: gr.Number(
                value=0, interactive=not why_not, info=why_not or form.TRAIN["text_encoder_learning_rate"].info
            ),
        }

    def estimate_time(self, *, base: str, **costly: int) -> dict[Any, Any]:
        if None in costly.values():  # a box that is being typed in
            return {}
        seconds = self.studio.training_time_s(base, **costly)
        time = f"{in_words(seconds)} on this machine" if seconds else "the time left shows once it has begun"
        return {self.estimate: f'<p class="aside">{costly["steps"]} steps: {time}.</p>'}

    def needed(self, **taking: Any) -> dict[Any, Any]:
        """What the training will need of the memory, and how it will make do."""
        if None in taking.values():  # a box that is being typed in
            return {}
        settings = TrainSettings(dataset="-", name="-", **taking)
        return {self.needs: f'<p class="aside">{escape(self.studio.needs(settings))}</p>'}

    def weigh(self, *, rank: int | None, alpha: float | None) -> dict[Any, Any]:
        return {self.scale: effective_scale(rank, alpha)} if rank and alpha else {}  # a box may be empty for a moment

    def start(self, **inputs: Any) -> dict[Any, Any]:
        if not inputs["dataset"]:
            raise BadSettings("There is no photo set to train on.", "Choose one, or add photos in the first tab.")
        job = self.studio.train(form.parse(TrainSettings, inputs))
        return {self.plot: gr.LinePlot(visible=False), self.strip: NO_SAMPLES, **self.watch.start(job)}

    def list_open(self, *, token: str) -> dict[Any, Any]:
        """The trainings that run or ended early, wherever they were started."""
        jobs = [job for job in self.studio.jobs("train") if job.state != "done"]
        cards = [open_card(job, chosen=job.token == token) for job in jobs]
        return {self.open_box: gr.Column(visible=bool(cards)), self.open_jobs: grid(cards, "tiles")}

    def after_discard(self, *, token: str) -> dict[Any, Any]:
        cleared = {} if token else {self.plot: gr.LinePlot(visible=False), self.strip: NO_SAMPLES}
        return {**self.list_open(token=token), **cleared}

    def attend(self, event: gr.EventData) -> dict[Any, Any]:
        job = self.studio.job(event.id)
        return {**self.watch.start(job), **self.follow(job)}

    def show(self, *, lora: str) -> dict[Any, Any]:
        loras = self.studio.loras()
        chosen = next((record for record in loras if record.id == lora), None)
        return {
            self.loras: lora_tiles([self._card(record, chosen=record is chosen) for record in loras]),
            self.lora: chosen.id if chosen else "",
            self.actions: gr.Row(visible=chosen is not None),
            self.download: served(self.studio.lora_file(chosen.id), f"{chosen.id}.safetensors") if chosen else None,
        }

    def pick(self, event: gr.EventData) -> dict[Any, Any]:
        return self.show(lora=event.id)

    def use_it(self, *, lora: str) -> dict[Any, Any]:
        return {self.page.new_lora: handed(lora=lora), **self.page.go("generate")}

    def delete(self, *, lora: str) -> dict[Any, Any]:
        if lora:  # else the person thought better of it
            self.studio.delete_lora(lora)
        return self.show(lora="")

    def follow(self, job: Job) -> dict[Any, Any]:
        events = job.events()
        losses = loss_table(events)
        updates = {
            self.plot: gr.LinePlot(losses, visible=True) if len(losses) else gr.LinePlot(visible=False),
            self.strip: sample_strips(job),
            **self.list_open(token=job.token),
        }
        return updates if job.state != "done" else updates | self.show(lora=job.result()["lora"])

    # What it looks like

    def _card(self, record: LoraRecord, *, chosen: bool) -> Card:
        return Card(
            id=record.id,
            title=record.name,
            note=f"{record.trigger} {record.class_name}".strip(),
            image=self.studio.thumbnail(record.samples[0]) if record.samples else None,
            chosen=chosen,
        )


def open_card(job: Job, *, chosen: bool) -> Card:
    progress = job.progress()
    states = {"queued": "Waiting", "running": "Running", "cancelled": "Stopped", "interrupted": "Interrupted"}
    reached = f" at step {progress.step} of {progress.total}" if progress.total else ""
    samples = [event.files[0] for event in job.events() if event.kind == "sample"]
    return Card(
        id=job.token,
        title=job.request["settings"]["name"],
        note=f"{states.get(job.state, 'Failed')}{reached}",
        image=job.folder / samples[-1] if samples else None,
        chosen=chosen,
    )


def sample_strips(job: Job) -> str:
    """A strip for each prompt, from the first step to the last."""
    strips: dict[str, dict[int, Card]] = defaultdict(dict)
    for event in job.events():
        if event.kind == "sample":
            card = Card(id=event.files[0], title=f"Step {event.step}", image=job.folder / event.files[0])
            strips[event.message][event.step] = card
    rows = (f'<p class="aside">{escape(prompt)}</p>{grid(list(c.values()), "strip")}' for prompt, c in strips.items())
    return "".join(rows) or NO_SAMPLES


def effective_scale(rank: int, alpha: float) -> str:
    """alpha / rank, by which a LoRA acts and learns: a learning rate carries over only with it."""
    scale = alpha / rank
    fast = "as fast" if scale == 1 else f"about {scale:.2g} times as fast"
    return (
        f'<p class="aside">Effective scale, alpha / rank: <b>{scale:.3g}</b>. The presets\' learning rates are for 1; '
        f"at this scale it learns {fast}.</p>"
    )


def loss_table(events: list[Event]) -> pd.DataFrame:
    """Columns step, loss and photos ("training" or "held out"); long runs as means over equal stretches of steps."""
    curves: dict[str, dict[int, float]] = defaultdict(dict)
    for event in events:
        for name, value in event.values.items():
            if event.kind == "metrics" and name in SERIES:
                curves[SERIES[name]][event.step] = value  # of a step repeated after a resume, the later
    tables = [
        pd.DataFrame({"step": list(curve), "loss": list(curve.values()), "photos": name})
        for name, curve in curves.items()
    ]
    return (
        pd.concat([_thinned(table) for table in tables]) if tables else pd.DataFrame(columns=["step", "loss", "photos"])
    )


def _thinned(curve: pd.DataFrame) -> pd.DataFrame:
    curve = curve.sort_values("step", ignore_index=True)
    stretch = curve.index * min(PLOT_POINTS, len(curve)) // len(curve)
    return curve.groupby(stretch).agg({"step": "last", "loss": "mean", "photos": "first"})
