"""The Generate tab: the prompt, the three legs it stands on (what, where, how it looks), and the pictures."""

import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import BadSettings
from engine.settings import MAX_SEED, GenerateSettings, LoraUse
from engine.studio import Job, LoraRecord, Recipe
from ui import form
from ui.cards import Card, Choice, Level, Plain, grid, headline, label, listing, sentence, served, url
from ui.few_steps import FewSteps
from ui.guidance import Guidance
from ui.layout_rows import LayoutRows
from ui.page import PROGRESS, Page, into_view
from ui.scores import bars, ranked_cards, reasons
from ui.speed import Speed
from ui.start_picture import StartPicture
from ui.style_rows import StyleRows
from ui.watch import Watch, preview_html

LORA_ROWS = 8
HISTORY_PAGE = 24
NAMED_TENSORS = 3  # of those that do nothing
NO_LORA = ("None", "")
NO_PICTURE = '<div class="result"><p class="empty">The picture appears here.</p></div>'


class GenerateTab:
    """`inputs` holds the component of every setting by its dotted name; `picture` is the id of the picture in the
    viewer. `last` are the settings this browser asked for last, `known` says on a new visit that there are any."""

    name, title = "generate", "Generate"

    def __init__(self, page: Page, tab: gr.Tab) -> None:
        self.page, self.studio = page, page.studio
        self.inputs: dict[str, Any] = {"base": page.base}
        self.last, self.known = page.remembered("settings", {}), page.signal()
        self.picture, self.limit = gr.State(""), gr.State(HISTORY_PAGE)
        with gr.Row(elem_classes=["columns"]):
            with gr.Column(scale=7, elem_classes=["sheet"]):
                headline(
                    "Make the picture",
                    "Say what it shows, and stand it on up to three legs: what, where, and how it looks.",
                )
                own = self._own(page.base.value)
                self._ask("prompt", elem_id="prompt", autofocus=False)
                with gr.Row(elem_classes=["legs"]):
                    with gr.Column(min_width=190, elem_classes=["leg", "what"]):
                        self._what()
                    with gr.Column(min_width=190, elem_classes=["leg", "where"]):
                        self.layouts = LayoutRows(page, self.inputs)
                    with gr.Column(min_width=190, elem_classes=["leg", "look"]):
                        self.looks = StyleRows(page, self.inputs)
                self.looks.lay_out_brush()
                self.start = StartPicture(page, self.inputs)
                with gr.Row(elem_classes=["numbers"]):
                    for name in ("guidance_scale", "steps", "width", "height", "count", "seed"):
                        self._ask(name, min_width=84, info=None, elem_id=name.replace("_", "-"), **own.get(name, {}))
                    self.random = gr.Checkbox(True, label="Random", min_width=90, elem_id="random-seed")
                self._ask("negative_prompt", elem_id="negative-prompt")
                self.guidance = Guidance(page, self.inputs)
                with gr.Accordion("Expert", open=False):
                    self._ask("scheduler", elem_id="scheduler", **own["scheduler"])
                    self._ask("memory", elem_id="memory")
                    self._ask("true_cfg_scale", elem_id="true-cfg", **own["true_cfg_scale"])
                    self.score = gr.Checkbox(
                        True, label="Score every picture", info="How well it kept what was asked", elem_id="score"
                    )
                    self.speed = Speed(page, self.inputs)
                self.few_steps = FewSteps(page, self.inputs)
                with gr.Column(elem_classes=["next"]):
                    self.needs = Plain(elem_id="needs")
                    self.notice = Plain(elem_id="generate-notice")
                    self.go = gr.Button("Generate", variant="primary", elem_id="go")
            with gr.Column(scale=5, elem_classes=["results"]):
                self.viewer = Plain(NO_PICTURE, elem_id="viewer")
                self.watch = Watch(page, "generate", preview=False, every_s=0.4)
                self.batch, self.made = Choice(elem_id="batch"), gr.State([])
                self.best_first = gr.Checkbox(True, label="Best first", visible=False, elem_id="best-first")
                self.reasons = Plain(elem_id="reasons")
                with gr.Column(visible=False) as self.actions:
                    self.details = Plain(elem_id="details")
                    with gr.Row(elem_classes=["actions"]):
                        self.download = gr.DownloadButton("Download", size="sm", min_width=90, elem_id="download")
                        self.again = gr.Button("Use again", size="sm", min_width=90, elem_id="use-again")
                        self.vary = gr.Button("Vary the seed", size="sm", min_width=110)
                        self.start_here = gr.Button("Start from it", size="sm", min_width=110, elem_id="start-here")
                        self.forget = gr.Button("Delete", size="sm", min_width=70, variant="stop")
                label("History")
                self.history = Choice(elem_id="history")
                self.more = gr.Button("Show more", size="sm", visible=False)
                self.picture_notice = Plain(elem_id="picture-notice")
                self.drop = gr.File(
                    label="Drop a Tripod picture to restore its settings",
                    height=70,
                    elem_id="restore",
                )
        self._wire(tab)

    # Lay-out

    def _ask(self, name: str, **kwargs: Any) -> None:
        self.inputs[name] = form.build(GenerateSettings, name, **kwargs)

    def _ask_row(self, rows: str, row: int, name: str, cls: Any, **kwargs: Any) -> Any:
        component = self.inputs[f"{rows}.{row}.{name}"] = form.build(cls, name, **kwargs)
        return component

    def _what(self) -> None:
        label("What", "your LoRAs")
        self.rows, self.thumbnails, self.removes, self.tunings = [], [], [], []
        for row in range(LORA_ROWS):
            with gr.Column(visible=row == 0, elem_classes=["lora"]) as box:
                with gr.Row(elem_classes=["pick"]):
                    self.thumbnails.append(Plain(min_width=0))
                    self._ask_row(
                        "loras",
                        row,
                        "lora",
                        LoraUse,
                        choices=[NO_LORA],
                        value="",
                        container=False,
                        min_width=60,
                        elem_id=f"lora-{row}",
                    )
                    self.removes.append(gr.Button("×", size="sm", min_width=0, visible=False, elem_id=f"remove-{row}"))
                with gr.Column(visible=False) as tuning:
                    self._ask_row("loras", row, "weight", LoraUse, info=None, elem_id=f"weight-{row}")
            self.rows.append(box)
            self.tunings.append(tuning)
        self.hint = Plain(elem_id="trigger-hint")
        self.add_lora = gr.UploadButton("Add a LoRA file", size="sm", elem_id="add-lora")
        self.checking = Plain(elem_classes=["counting"])
        self.lora_notice = Plain(elem_id="lora-notice")
        with gr.Accordion("When", open=False):
            for row in range(LORA_ROWS):
                with gr.Column(visible=row == 0) as tuning:
                    for name in ("start", "end"):
                        label_of = f"{row + 1}: {form.FORMS[LoraUse][name].label}"
                        self._ask_row("loras", row, name, LoraUse, info=None, label=label_of)
                self.tunings.append(tuning)

    # Wiring

    def _wire(self, tab: gr.Tab) -> None:
        page, inputs, on = self.page, self.inputs, partial(self.page.on, notice=self.notice)
        on_picture = partial(self.page.on, notice=self.picture_notice)
        menus = [inputs[f"loras.{row}.lora"] for row in range(LORA_ROWS)]
        stack = [*menus, *self.rows, *self.thumbnails, *self.removes, *self.tunings, self.hint]
        chosen = {f"lora_{row}": menu for row, menu in enumerate(menus)}
        legs = [*self.layouts.outputs, *self.looks.outputs, *self.start.outputs]
        legs += [*self.few_steps.outputs, self.few_steps.notice]
        everything = list(dict.fromkeys([*inputs.values(), self.random, *legs, *stack]))
        viewer = [self.viewer, self.actions, self.details, self.download, self.picture]
        listed = [self.history, self.more]
        several = [self.batch, self.made, self.best_first, self.reasons]
        started, last = [*self.watch.outputs, *viewer, *several, inputs["seed"], self.last], {"last": self.last}

        on([page.app.load, tab.select], self.list_loras, inputs=chosen, outputs=stack)
        changes = [on([menu.input for menu in menus], self.show_stack, inputs=chosen, outputs=stack)]
        # In two events, as it takes the browser seconds to set every control, which a first visit is spared.
        on(page.app.load, lambda *, last: {self.known: "yes"} if last else {}, inputs=last, outputs=[self.known])
        on(self.known.change, self.refill, inputs=last, outputs=everything)
        on_lora = partial(page.on, notice=self.lora_notice)
        for row, remove in enumerate(self.removes):
            weight = inputs[f"loras.{row}.weight"]
            taken = partial(self.remove_lora, row)
            changes.append(on_lora(remove.click, taken, inputs=chosen, outputs=[*stack, weight]))
        handed = on_lora(
            page.new_lora.change,
            self.take_lora,
            inputs={"handed": page.new_lora, "prompt": inputs["prompt"], **chosen},
            outputs=[*stack, inputs["prompt"]],
        )
        added = on_lora(
            self.add_lora.upload,
            self.import_lora,
            inputs={"file": self.add_lora, "base": page.base, "prompt": inputs["prompt"], **chosen},
            outputs=[*stack, inputs["prompt"]],
            show_progress="full",
            show_progress_on=self.checking,
        )
        self.few_steps.wire([*changes, handed, added], chosen)
        self.layouts.wire()
        self.looks.wire()
        self.start.wire()
        self.guidance.wire()
        self.speed.wire()

        on(
            [self.go.click, inputs["prompt"].submit],
            self.generate,
            inputs={"random": self.random, "score": self.score, **inputs},
            outputs=started,
        ).then(js=into_view("generate-watch"))
        on_picture(
            self.vary.click,
            self.generate_varied,
            inputs={"picture": self.picture, "score": self.score},
            outputs=started,
        ).then(js=into_view("generate-watch"))
        on_picture(
            self.start_here.click, self.start_from_it, inputs={"picture": self.picture}, outputs=self.start.outputs
        ).then(js=into_view("start"))
        self.watch.follow(self.follow, [*viewer, *listed, *several], inputs={"best_first": self.best_first})
        on_picture(
            self.best_first.input,
            self.arrange,
            inputs={"made": self.made, "best_first": self.best_first},
            outputs=several,
        )

        for cards in (self.history, self.batch):
            on_picture(cards.select, self.view, outputs=viewer)
        on_picture(self.again.click, self.use_again, inputs={"picture": self.picture}, outputs=everything)
        on_picture(
            self.forget.click,
            self.delete,
            inputs={"picture": self.picture, "limit": self.limit},
            outputs=[*viewer, *listed, *several],
            js="(id, limit) => confirm('Delete this picture for good?') ? [id, limit] : ['', limit]",
        )
        on_picture([page.app.load, tab.select], self.list_pictures, inputs={"limit": self.limit}, outputs=listed)
        on_picture(self.more.click, self.list_more, inputs={"limit": self.limit}, outputs=[*listed, self.limit])
        on_picture(self.drop.upload, self.restore, inputs={"file": self.drop}, outputs=everything).then(
            lambda: None, outputs=self.drop, **page.silent
        )
        costly = {name: inputs[name] for name in ("base", "width", "height", "memory", "attention")}
        on(  # when a person changes something, not as the page starts: it takes the heavy libraries
            [component.input for component in costly.values()],
            self.weigh,
            inputs=costly,
            outputs=[self.needs],
            trigger_mode="always_last",
        )
        on(
            page.base.input,
            self.defaults,
            inputs={"base": page.base},
            outputs=[inputs[name] for name in self._own(page.base.value)],
        )

    def weigh(self, *, width: int | None, height: int | None, **costly: str) -> dict[Any, Any]:
        """What a picture will need of the memory, and how it will make do."""
        if width is None or height is None:  # a box that is being typed in
            return {}
        settings = GenerateSettings(prompt="-", width=width, height=height, **costly)  # type: ignore[arg-type]
        return {self.needs: sentence(self.studio.needs(settings))}

    # What

    def list_loras(self, **loras: str) -> dict[Any, Any]:
        """The LoRAs to choose from, without those that were deleted. What else is chosen stays, as another event may
        just be choosing it."""
        choices = self._choices()
        known = {id_ for _, id_ in choices}
        if not known.issuperset(loras.values()):
            return self.fill_stack(**{row: id_ if id_ in known else "" for row, id_ in loras.items()})
        return {self.inputs[f"loras.{row}.lora"]: gr.Dropdown(choices) for row in range(LORA_ROWS)}

    def _choices(self) -> list[tuple[str, str]]:
        return [NO_LORA, *((record.name, record.id) for record in self.studio.loras())]

    def show_stack(self, **loras: str) -> dict[Any, Any]:
        """The filled rows and one free one, and the words that call up what is chosen."""
        records = [self.studio.lora(lora) if lora else None for lora in loras.values()]
        free = records.index(None) if None in records else None
        called_up_by = dict.fromkeys(called(record) for record in records if record)
        words = " and ".join(f"“{phrase}”" for phrase in called_up_by if phrase)
        updates: dict[Any, Any] = {self.hint: sentence(f"Write {words} in the prompt to call it up.") if words else ""}
        for row, record in enumerate(records):
            updates |= {
                self.rows[row]: gr.Column(visible=record is not None or row == free),
                self.thumbnails[row]: self._thumbnail(record) if record else "",
                self.removes[row]: gr.Button(visible=record is not None),
                **{box: gr.Column(visible=record is not None) for box in self.tunings[row::LORA_ROWS]},
            }
        return updates

    def _thumbnail(self, record: LoraRecord) -> str:
        if not record.samples:
            return '<span class="frame lora-mark" aria-hidden="true">LoRA</span>'
        return f'<span class="frame"><img src="{url(self.studio.thumbnail(record.samples[0], 96))}" alt=""></span>'

    def remove_lora(self, row: int, **loras: str) -> dict[Any, Any]:
        """Free the row; its weight is that of a new one again."""
        loras[f"lora_{row}"] = ""
        return {self.inputs[f"loras.{row}.weight"]: LoraUse.weight, **self.fill_stack(**loras)}

    def fill_stack(self, **loras: str) -> dict[Any, Any]:
        """Choose these LoRAs, one a row."""
        choices = self._choices()
        return {
            **{self.inputs[f"loras.{r}.lora"]: gr.Dropdown(choices, value=id_) for r, id_ in enumerate(loras.values())},
            **self.show_stack(**loras),
        }

    def take_lora(self, *, handed: dict[str, Any], prompt: str, **loras: str) -> dict[Any, Any]:
        """Put the LoRA on the first free row; an empty prompt starts with its trigger word."""
        record = self.studio.lora(handed["lora"])
        if record.id not in loras.values():
            free = next((name for name, id_ in loras.items() if not id_), None)
            if free is None:
                raise BadSettings(f"There are {LORA_ROWS} LoRAs already.", "Take one away first.")
            loras[free] = record.id
        phrase = called(record)
        start = f"a photo of {phrase}" if phrase and not prompt else prompt
        return {self.inputs["prompt"]: start, **self.fill_stack(**loras)}

    def import_lora(
        self, progress: gr.Progress = PROGRESS, *, file: str, base: str, prompt: str, **loras: str
    ) -> dict[Any, Any]:
        path = Path(file)
        progress(0, desc=f"Checking {path.name}")
        record = self.studio.import_lora(path, name=path.stem, base=base)
        said = tensors_read(*self.studio.lora_tensors(record.id))
        return {**self.take_lora(handed={"lora": record.id}, prompt=prompt, **loras), self.lora_notice: said}

    def defaults(self, *, base: str) -> dict[Any, Any]:
        """What a base asks for, when the person changes to it."""
        return {self.inputs[name]: gr.update(**props) for name, props in self._own(base).items()}

    def _own(self, base: str) -> dict[str, dict[str, Any]]:
        """A base's own size, steps and CFG, and what it can be asked for, by the names of the settings."""
        chosen = next(b for b in self.studio.bases() if b.name == base)
        schedulers = [choice for choice in form.SCHEDULERS if choice[1] in chosen.spec.schedulers]
        return {
            "width": {"value": chosen.default_size_px},
            "height": {"value": chosen.default_size_px},
            "steps": {"value": chosen.default_steps},
            "guidance_scale": {"value": chosen.default_guidance},
            "true_cfg_scale": {"value": 1, "visible": "true_cfg" in chosen.spec.supports},
            "scheduler": {"choices": schedulers, "value": "default"},
        }

    # Pictures

    def generate(self, *, random: bool, score: bool, **inputs: Any) -> dict[Any, Any]:
        settings = form.parse(GenerateSettings, inputs)
        return self._start(settings.replace(seed=secrets.randbelow(MAX_SEED)) if random else settings, score)

    def generate_varied(self, *, picture: str, score: bool) -> dict[Any, Any]:
        settings = self._recipe(picture).settings
        return self._start(settings.replace(seed=secrets.randbelow(MAX_SEED), count=1), score)

    def start_from_it(self, *, picture: str) -> dict[Any, Any]:
        return self.start.put(self.studio.keep_image(self.studio.picture_file(picture)))

    def _start(self, settings: GenerateSettings, score: bool) -> dict[Any, Any]:
        job = self.studio.generate(settings, score=score)
        return {
            self.inputs["seed"]: settings.seed,
            self.last: settings.to_dict(),
            **self.arrange(made=[], best_first=True),
            **self._unfinished(job),
            **self.watch.start(job),
        }

    def _unfinished(self, job: Job) -> dict[Any, Any]:
        """What is known of the picture so far, at the place and in the shape of the finished one."""
        preview = job.progress().preview
        shape = "aspect-ratio:{width}/{height}".format(**job.request)
        return {
            self.viewer: f'<div class="result" style="{shape}">{preview_html(preview) if preview else ""}</div>',
            self.actions: gr.Column(visible=False),
        }

    def follow(self, job: Job, *, best_first: bool) -> dict[Any, Any]:
        if not job.finished:
            return self._unfinished(job)
        if job.state != "done":  # the pictures finished before it stopped are kept
            return {self.viewer: NO_PICTURE, **self.list_pictures(limit=HISTORY_PAGE)}
        pictures = job.result()["pictures"]
        first = self.studio.rank(pictures)[0].picture if best_first else pictures[0]
        return {
            **self.arrange(made=pictures, best_first=best_first),
            **self._view(first),
            **self.list_pictures(limit=HISTORY_PAGE),
        }

    def arrange(self, *, made: list[str], best_first: bool) -> dict[Any, Any]:
        """The pictures of one request side by side, where there are several: by their scores with the reasons, or as
        they were made."""
        ranked = self.studio.rank(made) if len(made) > 1 and best_first else []
        cards = ranked_cards(self.studio, ranked) or [self._card(id_) for id_ in made]
        return {
            self.made: made,
            self.batch: grid(cards, "strip") if len(made) > 1 else "",
            self.best_first: gr.Checkbox(visible=len(made) > 1),
            self.reasons: reasons(ranked),
        }

    def view(self, event: gr.EventData) -> dict[Any, Any]:
        return self._view(event.id)

    def _view(self, picture: str) -> dict[Any, Any]:
        file, recipe = self.studio.picture_file(picture), self._recipe(picture)
        s = recipe.settings
        return {
            self.viewer: f'<a class="result" href="{url(file)}" target="_blank" title="Open the picture by itself">'
            f'<img src="{url(file)}" width="{s.width}" height="{s.height}" alt="{escape(s.prompt)}"></a>',
            self.download: served(file),
            self.actions: gr.Column(visible=True),
            self.details: details(recipe, self.layouts.titles) + bars(self.studio.scores(picture)),
            self.picture: picture,
        }

    def _recipe(self, picture: str) -> Recipe:
        return Recipe.from_dict(self.studio.picture(picture).recipe)

    def delete(self, *, picture: str, limit: int) -> dict[Any, Any]:
        if not picture:  # the person thought better of it
            return {}
        self.studio.delete_picture(picture)
        cleared = {self.viewer: NO_PICTURE, self.actions: gr.Column(visible=False), self.picture: ""}
        return cleared | self.arrange(made=[], best_first=True) | self.list_pictures(limit=limit)

    def list_pictures(self, *, limit: int) -> dict[Any, Any]:
        records = self.studio.pictures(limit + 1)
        return {
            self.history: grid(
                [self._card(r.id) for r in records[:limit]], "squares small", "Your pictures gather here."
            ),
            self.more: gr.Button(visible=len(records) > limit),
        }

    def list_more(self, *, limit: int) -> dict[Any, Any]:
        return {self.limit: limit + HISTORY_PAGE, **self.list_pictures(limit=limit + HISTORY_PAGE)}

    def _card(self, picture: str) -> Card:
        return Card(id=picture, image=self.studio.picture_thumbnail(picture), hint="Show this picture")

    # Settings back into the page

    def refill(self, *, last: dict[str, Any]) -> dict[Any, Any]:
        """What was asked last, on a page that is as it was built: the rest of the settings stays."""
        updates = self.fill(GenerateSettings.from_dict(last))
        same = {component for component in self.inputs.values() if updates[component] == component.value}
        return {component: update for component, update in updates.items() if component not in same}

    def use_again(self, *, picture: str) -> dict[Any, Any]:
        return self._restored(self.studio.picture_file(picture))

    def restore(self, *, file: str) -> dict[Any, Any]:
        return self._restored(Path(file))

    def _restored(self, png: Path) -> dict[Any, Any]:
        recipe, missing = self.studio.restore(png)
        settings = recipe.settings.replace(seed=recipe.seed, count=1)
        said: list[tuple[Level, str]] = [("warn", problem) for problem in missing]
        back = "Everything else is back." if missing else "Every setting of that picture is back."
        said.append(("good", f"{back} Press Generate to make it again."))
        return {self.picture_notice: listing(said), self.random: False, **self.fill(settings)}

    def fill(self, settings: GenerateSettings) -> dict[Any, Any]:
        """Every control set to `settings`, pictures included."""
        values, own = form.spread(settings, self.inputs), self._own(settings.base)
        loras = {f"lora_{row}": values[f"loras.{row}.lora"] or "" for row in range(LORA_ROWS)}
        return {
            **{component: values[name] for name, component in self.inputs.items()},
            **{self.inputs[n]: gr.update(**own[n] | {"value": values[n]}) for n in ("scheduler", "true_cfg_scale")},
            **self.fill_stack(**loras),
            **self.layouts.fill(settings),
            **self.looks.fill(settings),
            **self.start.fill(settings),
            **self.few_steps.fill([use.lora for use in settings.loras], settings.base),
        }


def called(record: LoraRecord) -> str:
    """The words that call up what a LoRA was taught."""
    return f"{record.trigger} {record.class_name}".strip()


def tensors_read(matched: int, unmatched: Sequence[str]) -> str:
    """What is said of a LoRA file that was added, as HTML."""
    if not unmatched:
        return sentence(f"All {matched} tensors of the file fit.", "good")
    first, more = ", ".join(unmatched[:NAMED_TENSORS]), len(unmatched) - NAMED_TENSORS
    names = f"{first} and {more} more" if more > 0 else first
    count = f"{matched} of {matched + len(unmatched)} tensors of the file fit."
    return sentence(f"{count} The rest belongs to no layer of the base and does nothing: {names}.", "warn")


def details(recipe: Recipe, kinds: Mapping[str, str]) -> str:
    """What a picture was made with, as HTML; `kinds` are what people call the kinds of layouts."""
    s = recipe.settings
    facts = [f"seed {recipe.seed}", f"{s.width} × {s.height}", f"{s.steps} steps", f"CFG {s.guidance_scale:g}"]
    facts += [f"{use.lora} {use.weight:g}" for use in s.loras]
    facts += [f"{kinds[use.kind]} {use.strength:g}" for use in s.controls]
    facts += [f"look {use.weight:g}" for use in s.styles]
    if s.start:
        facts.append(f"{'part of a picture' if s.start.mask else 'from a picture'} {s.start.strength:g}")
    return f'<p class="prompt">{escape(s.prompt)}</p><p class="facts">{escape(" · ".join(facts))}</p>'
