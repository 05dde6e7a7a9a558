"""Style from a reference: a CLIP-style image encoder and the IP-Adapter that reads it.

The encoder learns what two different scenes in the same style share (InfoNCE, as CLIP does for pictures and words). A
style is a look under a random grading (`grading.py`), so that it tells apart many more styles than the world has looks.
The IP-Adapter (Ye et al. 2023) then learns to draw scene B in the style of a reference that shows scene A, so content
that leaks from the reference costs from the first step on. First the base stays frozen; later both are refined together
(`refining.py`).
"""

# torch's modules and the libraries' configs are typed more narrowly than they are
# pyright: reportCallIssue=false, reportIndexIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig
from transformers import CLIPVisionModelWithProjection as ImageEncoder

from engine.starter.captions import caption
from engine.starter.corpus import LOOKS_PER_SCENE, Corpus, looks_of, mirrored, scene
from engine.starter.denoiser import new_scheduler, noised, spread_timesteps, weight_of_cells, weighted_error
from engine.starter.grading import graded, random_gradings
from engine.starter.linear_code import Code
from engine.starter.looks import LOOKS
from engine.starter.perception import Cells
from engine.starter.pixels import to_tensor
from engine.starter.precision import autocast
from engine.starter.text import WIDTH, embed, token_ids
from engine.starter.training import Schedule, train

SIDE_PX = 128
EMBEDDING = 128
TOKENS = 4
ENCODER_BATCH = 64
ADAPTER_BATCH = {16: 24, 32: 16}
_TEMPERATURE = 0.1
STYLED_SKEW = 2.5  # towards high noise, where a picture's colours are decided
WITHOUT_REFERENCE_SHARE = 0.1
WITHOUT_CAPTION_SHARE = 0.1


def new_image_encoder() -> ImageEncoder:
    """A small ViT: 128 px in patches of 16."""
    return ImageEncoder(
        CLIPVisionConfig(
            hidden_size=160,
            intermediate_size=480,
            projection_dim=EMBEDDING,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=SIDE_PX,
            patch_size=16,
        )
    )


def new_processor() -> CLIPImageProcessor:
    """Shortest side to 128 px, centre square, values to [-1, 1]."""
    half = [0.5, 0.5, 0.5]
    return CLIPImageProcessor(
        size={"shortest_edge": SIDE_PX},
        crop_size={"height": SIDE_PX, "width": SIDE_PX},
        image_mean=half,
        image_std=half,
    )


class StylePairs:
    """Draws pairs of rows in the same look, of different scenes."""

    def __init__(self, corpus: Corpus) -> None:
        self.rows: dict[str, list[int]] = {look: [] for look in LOOKS}
        for index in range(len(corpus) // LOOKS_PER_SCENE):
            for place, look in enumerate(looks_of(index)):
                self.rows[look].append(index * LOOKS_PER_SCENE + place)
        self.small = torch.from_numpy(corpus.thumbnails(SIDE_PX)).permute(0, 3, 1, 2)

    def draw(self, count: int, generator: torch.Generator) -> tuple[list[int], list[int], list[str]]:
        """`count` rows, as many partners, and their looks."""
        looks = [LOOKS[i] for i in torch.randint(len(LOOKS), (count,), generator=generator).tolist()]
        first, second = [], []
        for look in looks:
            rows = self.rows[look]
            a, b = torch.randint(len(rows), (2,), generator=generator).tolist()
            first.append(rows[a])
            second.append(rows[b])
        return first, second, looks

    def pictures(self, rows: list[int]) -> Tensor:
        """The rows as the encoder sees them, (n, 3, 128, 128) in [-1, 1]."""
        return self.small[rows].float() / 127.5 - 1


def train_image_encoder(encoder: ImageEncoder, corpus: Corpus, folder: Path, minutes: float) -> nn.Module:
    """InfoNCE over pairs of one style; returns the averaged encoder."""
    pairs = StylePairs(corpus)

    def loss_of(generator: torch.Generator) -> Tensor:
        first, second, _ = pairs.draw(ENCODER_BATCH, generator)
        gradings = random_gradings(ENCODER_BATCH, generator)
        views = torch.cat([graded(pairs.pictures(rows), gradings) for rows in (first, second)])
        with autocast():
            embeds = encoder(views).image_embeds
        a, b = nn.functional.normalize(embeds.float(), dim=1).chunk(2)
        scores = a @ b.T / _TEMPERATURE
        target = torch.arange(ENCODER_BATCH)
        return (nn.functional.cross_entropy(scores, target) + nn.functional.cross_entropy(scores.T, target)) / 2

    schedule = Schedule(minutes=minutes, learning_rate=5e-4, warmup_steps=100, ema=0.995)
    return train("image_encoder", folder, {"encoder": encoder}, loss_of, schedule)["encoder"]


def _crossed(unet: UNet2DConditionModel) -> list[str]:
    """The processors of the attention over text, in the order of the published files."""
    return [name for name in unet.attn_processors if name.endswith("attn2.processor")]


def _exported(file: Path) -> dict[str, dict[str, Tensor]]:
    state: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, weight in load_file(file).items():
        group, _, name = key.partition(".")
        state[group][name] = weight.float()
    return state


class AdapterWeights(nn.Module):
    """The IP-Adapter's own weights in a U-Net.

    They are diffusers' modules, so what is trained is what `load_ip_adapter` runs; `state` names them as the published
    IP-Adapter files do.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        """Those that are attached to `unet`."""
        super().__init__()
        processors = [unet.attn_processors[name] for name in _crossed(unet)]
        self.processors = nn.ModuleList(p for p in processors if isinstance(p, nn.Module))
        self.projection = unet.encoder_hid_proj

    @classmethod
    def attached(cls, unet: UNet2DConditionModel, file: Path) -> "AdapterWeights":
        """Attach new weights to `unet`, or those exported to `file` if it is there."""
        state = _exported(file) if file.exists() else cls._new(unet)
        unet._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
        return cls(unet)

    @staticmethod
    def _new(unet: UNet2DConditionModel) -> dict[str, dict[str, Tensor]]:
        state: dict[str, dict[str, Tensor]] = {
            "image_proj": {
                "proj.weight": torch.randn(TOKENS * WIDTH, EMBEDDING) * EMBEDDING**-0.5,
                "proj.bias": torch.zeros(TOKENS * WIDTH),
                "norm.weight": torch.ones(WIDTH),
                "norm.bias": torch.zeros(WIDTH),
            },
            "ip_adapter": {},
        }
        # Start from the text's keys and values (Ye et al. 2023, section 3.2.2).
        for place, name in enumerate(_crossed(unet)):
            attention = unet.get_submodule(name.removesuffix(".processor"))
            for part in ("k", "v"):
                weight = attention.get_parameter(f"to_{part}.weight").detach().clone()
                state["ip_adapter"][f"{2 * place + 1}.to_{part}_ip.weight"] = weight
        return state

    @classmethod
    def detached(cls, unet: nn.Module, plain: UNet2DConditionModel) -> tuple[UNet2DConditionModel, "AdapterWeights"]:
        """A trained `unet` taken apart: what is its own goes to `plain`, which has no adapter, and is returned."""
        assert isinstance(unet, UNet2DConditionModel)
        trained = unet.state_dict()
        plain.load_state_dict({name: trained[name] for name in plain.state_dict()})
        return plain, cls(unet)

    def weigh(self, scale: float) -> None:
        """How much the reference counts from now on; at 0 the U-Net is what it is without the adapter."""
        for processor in self.processors:
            processor.scale = [scale]

    def state(self) -> dict[str, Tensor]:
        """The weights under the names of the published files, float16."""
        projection = self.projection.image_projection_layers[0]
        named = {
            "image_proj.proj.weight": projection.image_embeds.weight,
            "image_proj.proj.bias": projection.image_embeds.bias,
            "image_proj.norm.weight": projection.norm.weight,
            "image_proj.norm.bias": projection.norm.bias,
        }
        for place, processor in enumerate(self.processors):
            named[f"ip_adapter.{2 * place + 1}.to_k_ip.weight"] = processor.to_k_ip[0].weight
            named[f"ip_adapter.{2 * place + 1}.to_v_ip.weight"] = processor.to_v_ip[0].weight
        return {name: weight.detach().half().contiguous() for name, weight in named.items()}

    def save(self, file: Path) -> None:
        save_file(self.state(), file)


@dataclass(frozen=True, kw_only=True)
class Styled:
    """A batch. latents: (n, 16, size, size), pictures to draw; names: int64 (n, size, size), what their cells show;
    captions: what they show, without their look; embeds: (n, 1, 128), other scenes in the same style as the encoder
    sees them, zero where there is no reference."""

    latents: Tensor
    names: Tensor
    captions: list[str]
    embeds: Tensor


class StyledScenes:
    """Draws batches of scenes in the style of others, at latents of side `size`, which is that of `cells`."""

    def __init__(self, corpus: Corpus, code: Code, encoder: ImageEncoder, cells: Cells, *, size: int) -> None:
        self.corpus, self.code, self.encoder, self.size = corpus, code, encoder.requires_grad_(False), size
        self.cells, self.pairs = cells, StylePairs(corpus)

    def draw(self, count: int, generator: torch.Generator) -> Styled:
        drawn, references, looks = self.pairs.draw(count, generator)
        gradings = random_gradings(count, generator)
        rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
        targets, captions, places = [], [], []
        for row, look in zip(drawn, looks, strict=True):
            shown, mirror = scene(row // LOOKS_PER_SCENE), rng.random() < 0.5
            said = caption(mirrored(shown) if mirror else shown, look, rng, name_look=False)
            captions.append("" if rng.random() < WITHOUT_CAPTION_SHARE else said)
            targets.append(self.corpus[row][:, ::-1] if mirror else self.corpus[row])
            places.append(2 * row + mirror)
        pixels = to_tensor(np.stack(targets))
        if self.size != 32:
            pixels = nn.functional.avg_pool2d(pixels, 32 // self.size)
        with torch.no_grad(), autocast():
            embeds = self.encoder(graded(self.pairs.pictures(references), gradings)).image_embeds.float()
        embeds[torch.rand(count, generator=generator) < WITHOUT_REFERENCE_SHARE] = 0
        names, _ = self.cells.of(torch.tensor(places))
        latents = self.code.encode(graded(pixels, gradings))
        return Styled(latents=latents, names=names, captions=captions, embeds=embeds[:, None])


def no_reference(count: int) -> dict[str, list[Tensor]]:
    """The further inputs of a U-Net whose adapter is asked for nothing, for `count` pictures."""
    return {"image_embeds": [torch.zeros(count, 1, EMBEDDING)]}


def styled_loss(
    unet: UNet2DConditionModel, words: Tensor, styled: Styled, alpha_bar: Tensor, generator: torch.Generator
) -> Tensor:
    """The weighted squared error of v, with the adapter that is attached; `words` are the captions, embedded.

    As in the denoiser's loss, cells of things weigh more: they are what keeps the colour that the prompt names.
    """
    noise = torch.randn(styled.latents.shape, generator=generator)
    timesteps = spread_timesteps(len(noise), generator, STYLED_SKEW)
    x_t, v, weight = noised(styled.latents, noise, alpha_bar[timesteps])
    with autocast():
        predicted = unet(
            x_t.to(memory_format=torch.channels_last),
            timesteps,
            words,
            added_cond_kwargs={"image_embeds": [styled.embeds]},
        ).sample
    return weighted_error(predicted, v, weight_of_cells(styled.names), weight)


def train_ip_adapter(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    scenes: StyledScenes,
    exported: Path,
    folder: Path,
    *,
    minutes: float,
) -> AdapterWeights:
    """Train for `minutes`, from the weights `exported` before, if any; returns the averaged weights."""
    alpha_bar = new_scheduler().alphas_cumprod
    for frozen in (unet, text_encoder):
        frozen.requires_grad_(False)
    weights = AdapterWeights.attached(unet.to(memory_format=torch.channels_last), exported)
    weights.requires_grad_(True)

    def loss_of(generator: torch.Generator) -> Tensor:
        styled = scenes.draw(ADAPTER_BATCH[scenes.size], generator)
        with autocast():
            words = embed(text_encoder, token_ids(tokenizer, styled.captions))
        return styled_loss(unet, words, styled, alpha_bar, generator)

    schedule = Schedule(minutes=minutes, learning_rate=1e-3, warmup_steps=50, ema=0.99, muon=True)
    averaged = train("ip_adapter", folder, {"weights": weights}, loss_of, schedule)["weights"]
    assert isinstance(averaged, AdapterWeights)
    return averaged
