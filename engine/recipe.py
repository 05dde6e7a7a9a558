"""The whole recipe of a picture: to and from JSON, and inside the PNG itself.

A PNG carries two text chunks: `parameters`, which other tools read (A1111's text), and `tripod`, our JSON, from which
every setting comes back. Equal pictures with equal recipes give equal bytes. Nothing here knows of models or of the
workspace; whether the LoRAs and images that a recipe names are here is for others to check.
"""

import io
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, PngImagePlugin

from engine.errors import BadRecipe, BadSettings
from engine.settings import ControlUse, GenerateSettings, Settings, StyleUse
from engine.workspace import RECIPE_CHUNK

A1111_CHUNK = "parameters"
PNG_LEVEL = 4
"""zlib's: half the time of its usual 6, for files 4% larger."""

SAMPLERS = {
    "default": ("Default", "Automatic"),
    "ddim": ("DDIM", "Automatic"),
    "ddim_trailing": ("DDIM", "SGM Uniform"),
    "euler": ("Euler", "Automatic"),
    "euler_trailing": ("Euler", "SGM Uniform"),
    "euler_a": ("Euler a", "Automatic"),
    "dpmpp_2m": ("DPM++ 2M", "Automatic"),
    "dpmpp_2m_karras": ("DPM++ 2M", "Karras"),
    "unipc": ("UniPC", "Automatic"),
    "lcm": ("LCM", "Automatic"),
    "shift_3": ("Euler", "Simple"),
}
"""Our scheduler names as A1111's sampler and schedule type."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Settings):
    """What it takes to make one picture again.

    `seed` is that of this very picture, of the several that `settings` may ask for. Hashes are SHA-256 in hex: of the
    base's weights, and of each LoRA file by the LoRA's id. `versions` are of the libraries, by name. How long it took
    stays out of the PNG, whose bytes must not depend on it.
    """

    settings: GenerateSettings
    seed: int
    base_hash: str
    lora_hashes: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    duration_s: float = 0.0


def a1111_text(recipe: Recipe, lora_names: dict[str, str]) -> str:
    """The recipe as A1111 writes it: prompt, negative prompt, and one line of values that starts with `Steps: `.

    `lora_names` gives the name of each LoRA id. LoRA and ControlNet entries follow A1111's built-in LoRA and
    sd-webui-controlnet, where a style reference is an IP-Adapter unit.
    """
    settings = recipe.settings
    names = {use.lora: re.sub(r"[^a-zA-Z0-9_.-]+", "_", lora_names[use.lora]) for use in settings.loras}
    sampler, schedule = SAMPLERS[settings.scheduler]
    values = {
        "Steps": settings.steps,
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": f"{settings.guidance_scale:g}",
        "Seed": recipe.seed,
        "Size": f"{settings.width}x{settings.height}",
        "Model hash": recipe.base_hash[:10],
        "Model": settings.base,
    }
    if settings.start:
        values["Denoising strength"] = f"{settings.start.strength:g}"
        if settings.start.mask:
            values["Mask blur"] = settings.start.feather_px
    if names:
        values["Lora hashes"] = ", ".join(f"{name}: {recipe.lora_hashes[id_][:12]}" for id_, name in names.items())
    units = [_control_unit(use, settings) for use in settings.controls] + [_style_unit(use) for use in settings.styles]
    values |= {f"ControlNet {number}": unit for number, unit in enumerate(units)}
    values["Version"] = "Tripod"

    prompt = " ".join([settings.prompt, *(f"<lora:{names[use.lora]}:{use.weight:g}>" for use in settings.loras)])
    negative = f"\nNegative prompt: {settings.negative_prompt}" if settings.negative_prompt else ""
    return f"{prompt}{negative}\n" + ", ".join(f"{key}: {_quoted(str(value))}" for key, value in values.items())


def _control_unit(use: ControlUse, settings: GenerateSettings) -> str:
    mode = "ControlNet is more important" if use.mode == "layout" else "Balanced"
    if use.detected:
        return _unit(use, "none", f"controlnet-{use.kind}", use.strength, mode=mode)
    processor = {"Processor Res": min(settings.width, settings.height)}
    return _unit(use, use.kind, f"controlnet-{use.kind}", use.strength, processor, mode=mode)


def _style_unit(use: StyleUse) -> str:
    return _unit(use, "ip-adapter-auto", "ip-adapter", use.weight)


def _unit(
    use: ControlUse | StyleUse,
    module: str,
    model: str,
    weight: float,
    processor: dict[str, int] | None = None,
    mode: str = "Balanced",
) -> str:
    values = {
        "Module": module,
        "Model": model,
        "Weight": weight,
        "Resize Mode": "Crop and Resize",
        **(processor or {}),
        "Guidance Start": use.start,
        "Guidance End": use.end,
        "Pixel Perfect": True,
        "Control Mode": mode,
    }
    return ", ".join(f"{key}: {value}" for key, value in values.items())


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if re.search(r"[,:\n]", value) else value


def png_bytes(image: Image.Image, recipe: Recipe, lora_names: dict[str, str]) -> bytes:
    """The picture as PNG with its recipe inside."""
    own = recipe.to_dict()
    del own["duration_s"]
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(A1111_CHUNK, a1111_text(recipe, lora_names))
    chunks.add_text(RECIPE_CHUNK, json.dumps(own, sort_keys=True))
    png = io.BytesIO()
    image.save(png, "PNG", pnginfo=chunks, compress_level=PNG_LEVEL)
    return png.getvalue()


def read_png(path: Path) -> Recipe:
    """The recipe inside a picture: ours, or else what A1111's text says of prompts, steps, CFG, seed and size.

    Every value is checked as if it had been typed in. Raises: BadRecipe.
    """
    try:
        with Image.open(path) as image:  # the text comes before the pixels, which are not decoded
            chunks = {name: str(text) for name, text in image.info.items() if name in (RECIPE_CHUNK, A1111_CHUNK)}
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadRecipe(f"{path.name} is not a picture, or it is damaged.", "Choose a PNG made by Tripod.") from error
    try:
        if RECIPE_CHUNK in chunks:
            return Recipe.from_dict(json.loads(chunks[RECIPE_CHUNK]))
        if A1111_CHUNK in chunks:
            return _parse_a1111(chunks[A1111_CHUNK])
    except BadSettings as error:
        raise BadRecipe(f"The recipe in {path.name} does not hold here: {error.problem}", error.remedy) from error
    except (ValueError, KeyError, RecursionError) as error:
        raise BadRecipe(f"The recipe in {path.name} cannot be read.", "Choose another picture.") from error
    raise BadRecipe(
        f"{path.name} carries no recipe.",
        "Choose a PNG made by Tripod or A1111, as it was saved: other programs and chats drop the text inside.",
    )


_A1111_VALUE = re.compile(r'(\w[\w \-/]{1,60}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_LORA_TAG = re.compile(r"\s*<lora:[^>]*>")


def _parse_a1111(text: str) -> Recipe:
    """As A1111 reads it back, for what means the same here. Its base and LoRAs are not ours: the defaults stay."""
    prompts, _, last_line = text.strip().rpartition("\n")
    values = dict(_A1111_VALUE.findall(last_line))
    prompt, _, negative_prompt = f"\n{prompts}".partition("\nNegative prompt:")
    width, height = values["Size"].split("x")
    settings = GenerateSettings(
        prompt=_LORA_TAG.sub("", prompt).strip(),
        negative_prompt=negative_prompt.strip(),
        steps=int(values["Steps"]),
        guidance_scale=float(values["CFG scale"]),
        seed=int(values["Seed"]),
        width=int(width),
        height=int(height),
    )
    return Recipe(settings=settings, seed=settings.seed, base_hash="")
