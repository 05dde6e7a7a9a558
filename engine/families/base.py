"""What a base model is, what a family of bases can do, and where the files of a base come from.

A base is one entry in a table: where its parts lie and what it is best asked for. A family is the code that loads and
runs all bases of one architecture. Nothing here knows of settings, workspaces or pictures.
"""

import dataclasses
import hashlib
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from engine.errors import MissingModel
from engine.families.components import Components, Embeds, IPAdapter
from engine.settings import (
    ControlMode,
    ControlUse,
    DiffusionSchedulerName,
    GenerateSettings,
    SchedulerName,
    StepCacheName,
    StyleTarget,
    Task,
)

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

Objective = Literal["denoising", "flow", "flow to clean"]
"""What a denoiser learns in training; see `engine.training.objective`."""

Guidance = Literal["two passes", "told", "none"]
"""How the CFG of a base acts: by a second pass with the negative prompt; as a number that a denoiser is told which was
distilled from guided pictures; or not at all."""


@dataclass(frozen=True, kw_only=True)
class FamilySpec:
    """Facts about an architecture: `vae_scale` is the pixels along one side of a latent cell, `lora_targets` the layers
    that a LoRA is trained on, `style_targets` what a style reference may be limited to, `style_blocks` where in the
    denoiser it then acts, by how the names of its blocks begin, and the two before the tasks how LoRA files name the
    family (in `modelspec.architecture` and `ss_base_model_version`).

    A base of the family is known by its pipeline's class in diffusers, `pipeline`, and as a checkpoint in one file by
    how the names of its tensors begin, `checkpoint`: with each of these. `text_encoders` are its parts that read text,
    with their classes in transformers, and `trained_text_encoders` those of them that its LoRAs have a part for.
    `denoiser` is the part that is run at every step. Sides of pictures are multiples of `side_step_px`; `precision` is
    the half that the weights bear. `img2img` and `inpaint` are the classes of its pipelines that start from a picture,
    empty where diffusers has none.

    `original_layers` are the layers of the denoiser as its first code calls them, which kohya and ComfyUI go by, with
    those of diffusers that each of them holds, one below the other; "{}" stands for the number of a block. Where all
    programs go by diffusers' names too, `exports_original_layers` is False.
    """

    name: str
    title: str
    pipeline: str
    denoiser: Literal["unet", "transformer"] = "unet"
    text_encoders: Mapping[str, str]
    trained_text_encoders: tuple[str, ...] = ()
    checkpoint: tuple[str, ...]
    vae_scale: int
    side_step_px: int = 8
    precision: Literal["float16", "bfloat16"] = "float16"
    objective: Objective = "denoising"
    schedulers: tuple[SchedulerName, ...] = typing.get_args(DiffusionSchedulerName)
    lora_targets: tuple[str, ...]
    supports: frozenset[str]
    style_targets: tuple[StyleTarget, ...]
    max_styles: int = 4
    step_caches: tuple[StepCacheName, ...] = ()
    style_blocks: Mapping[StyleTarget, tuple[str, ...]] = field(default_factory=dict)
    original_layers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    exports_original_layers: bool = True
    modelspec_architecture: str
    ss_base_model_version: str
    img2img: str = ""
    inpaint: str = ""

    def pipeline_for(self, task: Task) -> str:
        """The class in diffusers that does the task; empty where there is none."""
        return {"text_to_image": self.pipeline, "image_to_image": self.img2img, "inpainting": self.inpaint}[task]


@dataclass(frozen=True, kw_only=True)
class Base:
    """One base model and what goes with it.

    `source`, `controlnets` (by control kind), `ip_adapter` (its file), `image_encoder` (a folder; None for that beside
    the adapter) and `captioner` are absolute paths, or `owner/name/path` on the Hub. The source is a folder of
    diffusers' layout, or a checkpoint in one `.safetensors` file, which takes what it does not hold from the base at
    `companion`. `variant` is in the names of the weight files of a folder, such as "fp16". `schedule` is what a
    checkpoint needs otherwise in its family's noise schedule. `normals_point_left` says that its ControlNet for normal
    maps was trained with red for the left, as NormalBae draws them. `architecture` is how LoRA files name the base in
    `modelspec.architecture`, where that is not as they name its family.

    Bases of one family are told apart by `marks`, how the names of further tensors begin that a checkpoint has, and by
    `configured`, what the configurations of pipeline and denoiser say. `control_mode` is how its ControlNets are meant
    to act.
    """

    name: str
    title: str
    spec: FamilySpec
    source: str
    companion: str | None = None
    marks: tuple[str, ...] = ()
    configured: Mapping[str, Any] = field(default_factory=dict)
    default_size_px: int
    default_steps: int
    default_guidance: float
    guidance: Guidance = "two passes"
    guidance_rescale: float = 0.0
    variant: str | None = None
    schedule: Mapping[str, Any] = field(default_factory=dict)
    controlnets: Mapping[str, str] = field(default_factory=dict)
    normals_point_left: bool = False
    control_mode: ControlMode = "balanced"
    architecture: str | None = None
    ip_adapter: str | None = None
    image_encoder: str | None = None
    captioner: str | None = None

    def replace(self, **changes: Any) -> "Base":
        return dataclasses.replace(self, **changes)

    @property
    def family(self) -> str:
        return self.spec.name

    def guides_control(self, use: ControlUse) -> bool:
        """Whether guidance acts on what a control adds."""
        return (self.control_mode if use.mode == "default" else use.mode) == "layout"

    @property
    def is_file(self) -> bool:
        return self.source.endswith(".safetensors")

    def require_controlnet(self, kind: str) -> str:
        """Where the ControlNet for a kind of control is. Raises: MissingModel."""
        if kind not in self.controlnets:
            has = f"It has {', '.join(self.controlnets)}: choose one." if self.controlnets else "Choose another base."
            raise MissingModel(f"{self.title} has no ControlNet for {kind}.", has)
        return self.controlnets[kind]

    def require_ip_adapter(self) -> str:
        """Where the style adapter is. Raises: MissingModel."""
        if self.ip_adapter is None:
            raise MissingModel(f"{self.title} has no style adapter.", "Remove the reference, or choose another base.")
        return self.ip_adapter

    def weights(self, part: str) -> str:
        """The pattern that the weight files of a part match, in the folder of the base."""
        return f"{part}/*.{self.variant}.safetensors" if self.variant else f"{part}/*.safetensors"


class Family(Protocol):
    """What every family can do. Loading raises MissingModel when the files are neither here nor within reach."""

    @property
    def spec(self) -> FamilySpec: ...

    def load(self, base: Base, dtype: "torch.dtype", device: str) -> Components: ...

    def load_controlnet(self, base: Base, kind: str, dtype: "torch.dtype", device: str) -> Any: ...

    def load_ip_adapter(self, base: Base, dtype: "torch.dtype", device: str) -> IPAdapter: ...

    def layers(self, base: Base) -> dict[str, tuple[int, ...]]:
        """The weight's shape of every layer that a LoRA can stand beside, by name: the part, such as `unet.`, then the
        module's. Read from the configuration alone; no weights are loaded."""
        ...

    def pipeline(self, parts: Components, scheduler: SchedulerName, task: Task = "text_to_image") -> Any:
        """The diffusers pipeline for the task over the shared parts, with a scheduler of its own. Cheap: nothing is
        copied."""
        ...

    def encode(self, pipeline: Any, texts: Sequence[str | None]) -> Embeds:
        """Texts as the pipeline takes them. None is no text at all: what a picture without a negative prompt is guided
        away from, and what a dropped caption is trained as."""
        ...

    def reads(self, pipeline: Any) -> tuple[Any, int]:
        """The tokenizer of the text encoder that reads the most of a prompt, and how many tokens it reads."""
        ...

    def set_steps(self, scheduler: Any, steps: int) -> None:
        """Let the scheduler say what timesteps it would take, how many at least."""
        ...

    def guides(self, settings: GenerateSettings, base: Base) -> bool:
        """Whether a picture with these settings is guided away from a negative prompt."""
        ...

    def arguments(self, settings: GenerateSettings, embeds: Embeds, styles: "Sequence[Tensor]") -> dict[str, Any]:
        """What the pipeline is called with, besides the size, the steps and the noise.

        Args:
            embeds: of the prompts, and of the negative ones if it `guides`, as `guided` puts them together.
            styles: embeddings of the references, as `engine.adapters.ip_adapter.embed` gives them.
        """
        ...

    def started(self, pipeline: Any, image: "Image", mask: "Image | None", strength: float) -> dict[str, Any]:
        """What the pipeline of the task is called with besides, to start from a picture and draw anew where the mask is
        white. Both have the size of the picture."""
        ...

    def predict(self, parts: Any, noisy: "Tensor", timesteps: "Tensor", embeds: Embeds, sizes: "Tensor") -> "Tensor":
        """What the denoiser says of noisy latents (n, c, h, w), in their shape, when it is trained.

        Args:
            timesteps: (n,), as the scheduler counts them.
            sizes: (n, 6), height and width of the photo before it was scaled, top and left of its crop after that, and
                height and width of the crop.
        """
        ...


def dtype_for(device: str, spec: FamilySpec) -> "torch.dtype":
    """The precision to run in: the family's half on a GPU, single on the CPU, where half is slow."""
    import torch

    return torch.float32 if device == "cpu" else getattr(torch, spec.precision)


def fetched(source: str, *patterns: str) -> Path:
    """The folder or file `source` on this machine. Of a Hub source, the files that match `patterns` are fetched first.

    Raises: MissingModel.
    """
    if Path(source).is_absolute():
        if not Path(source).exists():
            raise MissingModel(f"The model {source} is not there.", "Put it there, or choose another base.")
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError

    owner, name, *inside = source.split("/")
    prefix = "".join(f"{part}/" for part in inside)
    try:
        folder = snapshot_download(
            f"{owner}/{name}",
            allow_patterns=[prefix + pattern for pattern in patterns],
            # The same weights once more, unless they are what is asked for
            ignore_patterns=None if any(".fp16" in pattern for pattern in patterns) else "*.fp16*",
        )
    except GatedRepoError as error:
        raise MissingModel(
            f"The model {owner}/{name} is given only to those who accept its terms.",
            "Accept them on its page on the Hub, and start Tripod with the environment variable HF_TOKEN set to an "
            "access token of that account.",
        ) from error
    except OSError as error:  # no network, no such repository, no access
        raise MissingModel(
            f"The model {owner}/{name} is not on this machine, and the Hub cannot be reached.",
            "Connect to the internet once to fetch it, or choose the starter, which is embedded.",
        ) from error
    return Path(folder, *inside)


def weights_hash(base: Base) -> str:
    """SHA-256 of the denoiser's safetensors files, or of the one file that holds everything, as other tools give it.
    Call after loading, when they are on this machine."""
    weights = base.weights(base.spec.denoiser)
    source = fetched(base.source, weights)
    files = [source] if base.is_file else sorted(source.glob(weights))
    return _sha256(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@lru_cache(maxsize=8)
def _sha256(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Of the files' bytes, one after another; size and time are there to notice a change."""
    digest = hashlib.sha256()
    for path, _, _ in files:
        with path.open("rb") as file:
            for block in iter(lambda: file.read(2**20), b""):
                digest.update(block)
    return digest.hexdigest()


@contextmanager
def full_precision(vae: Any) -> Iterator[None]:
    """In the body, an autoencoder that overflows in half precision runs in single, as diffusers' pipelines do it."""
    import torch

    dtype = vae.dtype
    if dtype == torch.float16 and vae.config.get("force_upcast"):
        vae.to(torch.float32)
    try:
        yield
    finally:
        vae.to(dtype)
