"""Style from a reference: a CLIP-style image encoder and the IP-Adapter that reads it.

The encoder learns what two different scenes in the same style share (InfoNCE, as CLIP does for pictures and words). A
style is a look under a random grading (colour mixing and tone curve), so that it tells apart many more styles than the
world has looks. The IP-Adapter (Ye et al. 2023) then learns to draw scene B in the style of a reference that shows
scene A, so content that leaks from the reference costs from the first step on. The base stays frozen.
"""

# torch's modules and the libraries' configs are typed more narrowly than they are
# pyright: reportCallIssue=false, reportIndexIssue=false, reportOptionalMemberAccess=false

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
from engine.starter.decoder import to_tensor
from engine.starter.denoiser import HIGH_NOISE_SKEW, new_scheduler, noised, spread_timesteps
from engine.starter.linear_code import Code
from engine.starter.looks import LOOKS
from engine.starter.precision import autocast
from engine.starter.text import WIDTH, embed, token_ids
from engine.starter.training import Schedule, train

SIDE_PX = 128
EMBEDDING = 128
TOKENS = 4
ENCODER_BATCH = 64
ADAPTER_BATCH = {16: 24, 32: 16}
_TEMPERATURE = 0.1
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


def random_grading(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A colour matrix (count, 3, 3) and a gamma (count,) each; half of them leave the picture as it is.

    Some matrices mix the channels a little, some map luma onto a line between two random colours (a two-tone print).
    """
    identity = torch.eye(3).expand(count, 3, 3)
    mixed = identity + 0.25 * torch.randn(count, 3, 3, generator=generator)
    tone = torch.rand(count, 3, 1, generator=generator) * 1.6 - 0.3
    two_tone = tone * torch.tensor([0.299, 0.587, 0.114])
    kind = torch.rand(count, 1, 1, generator=generator)
    matrix = torch.where(kind < 0.5, identity, torch.where(kind < 0.75, mixed, two_tone))
    gamma = torch.where(kind[:, 0, 0] < 0.5, 1.0, torch.exp(0.35 * torch.randn(count, generator=generator)))
    return matrix, gamma


def graded(pictures: Tensor, matrix: Tensor, gamma: Tensor) -> Tensor:
    """Pictures (n, 3, h, w) in [-1, 1] under their gradings, in [-1, 1]."""
    x = ((pictures + 1) / 2).clamp(0, 1) ** gamma[:, None, None, None]
    return torch.einsum("nij,njhw->nihw", matrix, x).clamp(0, 1) * 2 - 1


class StylePairs:
    """Draws pairs of rows in the same look, of different scenes."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.rows: dict[str, list[int]] = {look: [] for look in LOOKS}
        for index in range(len(corpus) // LOOKS_PER_SCENE):
            for place, look in enumerate(looks_of(index)):
                self.rows[look].append(index * LOOKS_PER_SCENE + place)

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


def train_image_encoder(encoder: ImageEncoder, corpus: Corpus, folder: Path, minutes: float) -> nn.Module:
    """InfoNCE over pairs of one style; returns the averaged encoder."""
    pairs = StylePairs(corpus)
    small = torch.from_numpy(corpus.thumbnails(SIDE_PX)).permute(0, 3, 1, 2)

    def loss_of(generator: torch.Generator) -> Tensor:
        first, second, _ = pairs.draw(ENCODER_BATCH, generator)
        grading = random_grading(ENCODER_BATCH, generator)
        views = torch.cat([graded(small[rows].float() / 127.5 - 1, *grading) for rows in (first, second)])
        with autocast():
            embeds = encoder(views).image_embeds
        a, b = nn.functional.normalize(embeds.float(), dim=1).chunk(2)
        scores = a @ b.T / _TEMPERATURE
        target = torch.arange(ENCODER_BATCH)
        return (nn.functional.cross_entropy(scores, target) + nn.functional.cross_entropy(scores.T, target)) / 2

    schedule = Schedule(minutes=minutes, learning_rate=1e-3, warmup_steps=100, ema=0.995)
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
    """The IP-Adapter's own weights, attached to a U-Net for training.

    They are diffusers' modules, so what is trained is what `load_ip_adapter` runs; `state` names them as the published
    IP-Adapter files do.
    """

    def __init__(self, unet: UNet2DConditionModel, file: Path) -> None:
        """New weights, or those exported to `file` if it is there."""
        super().__init__()
        state = _exported(file) if file.exists() else self._new(unet)
        unet._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
        processors = [unet.attn_processors[name] for name in _crossed(unet)]
        self.processors = nn.ModuleList(p for p in processors if isinstance(p, nn.Module))
        self.projection = unet.encoder_hid_proj

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


def train_ip_adapter(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    encoder: ImageEncoder,
    corpus: Corpus,
    code: Code,
    exported: Path,
    folder: Path,
    *,
    size: int,
    minutes: float,
) -> AdapterWeights:
    """Train on latents of side `size` for `minutes`, from the weights `exported` before, if any; returns the averaged
    weights."""
    alpha_bar = new_scheduler().alphas_cumprod
    for frozen in (unet, text_encoder, encoder):
        frozen.requires_grad_(False)
    weights = AdapterWeights(unet.to(memory_format=torch.channels_last), exported)
    weights.requires_grad_(True)
    pairs = StylePairs(corpus)
    small = torch.from_numpy(corpus.thumbnails(SIDE_PX)).permute(0, 3, 1, 2)
    count = ADAPTER_BATCH[size]

    def loss_of(generator: torch.Generator) -> Tensor:
        drawn, references, looks = pairs.draw(count, generator)
        rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
        matrix, gamma = random_grading(count, generator)
        flipped = rng.random(count) < 0.5
        targets = []
        captions = []
        for row, look, mirror in zip(drawn, looks, flipped, strict=True):
            shown = scene(row // LOOKS_PER_SCENE)
            said = caption(mirrored(shown) if mirror else shown, look, rng, name_look=False)
            captions.append("" if rng.random() < WITHOUT_CAPTION_SHARE else said)
            targets.append(corpus[row][:, ::-1] if mirror else corpus[row])
        pixels = to_tensor(np.stack(targets))
        if size != 32:
            pixels = nn.functional.avg_pool2d(pixels, 32 // size)
        latents = code.encode(graded(pixels, matrix, gamma))
        style = graded(small[references].float() / 127.5 - 1, matrix, gamma)
        with torch.no_grad():
            embeds = encoder(style).image_embeds
        embeds[torch.rand(count, generator=generator) < WITHOUT_REFERENCE_SHARE] = 0
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = spread_timesteps(count, generator, HIGH_NOISE_SKEW)
        x_t, v, weight = noised(latents, noise, alpha_bar[timesteps])
        with autocast():
            words = embed(text_encoder, token_ids(tokenizer, captions))
            predicted = unet(
                x_t.to(memory_format=torch.channels_last),
                timesteps,
                words,
                added_cond_kwargs={"image_embeds": [embeds[:, None]]},
            ).sample
        return ((predicted.float() - v).square().mean(dim=(1, 2, 3)) * weight).mean()

    schedule = Schedule(minutes=minutes, learning_rate=1e-3, warmup_steps=50, ema=0.99, muon=True)
    averaged = train("ip_adapter", folder, {"weights": weights}, loss_of, schedule)["weights"]
    assert isinstance(averaged, AdapterWeights)
    return averaged
