"""The parts of a loaded base, and how what is asked and attached reaches them. Knows nothing of where they lie."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

Embeds = dict[str, "Tensor"]
"""What a family's text encoders make of n texts, by the names under which its pipeline takes them: `prompt_embeds`
(n, tokens, width), for some families `pooled_prompt_embeds` (n, width), for others `prompt_embeds_mask` (n, tokens)."""


def guided(prompt: Embeds, negative: Embeds) -> Embeds:
    """Both halves of classifier-free guidance, as arguments of a pipeline."""
    return prompt | {f"negative_{name}": tensor for name, tensor in negative.items()}


@dataclass(kw_only=True)
class Components(ABC):
    """The parts of a loaded base, on one device, frozen and in evaluation mode, by the names that its pipeline has for
    them. Pipelines share them. A family adds its denoiser and what else it has, and says here how pictures and
    attachments reach the denoiser."""

    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any

    @property
    @abstractmethod
    def denoiser(self) -> Any:
        """The part that is run at every step."""

    def latents_of(
        self, pixels: "Tensor", generator: "torch.Generator | None" = None, *, is_shifted: bool = True
    ) -> "Tensor":
        """Pictures (n, 3, h, w) from -1 to 1 as the denoiser sees them without noise, (n, c, h, w).

        The mean of the autoencoder's posterior; with a `generator` a draw from it.
        """
        from diffusers.utils.torch_utils import get_module_execution_device  # which offloading keeps apart from its own

        posterior = self.vae.encode(pixels.to(get_module_execution_device(self.vae), self.vae.dtype)).latent_dist
        latents = posterior.sample(generator) if generator else posterior.mode()
        shift = getattr(self.vae.config, "shift_factor", None) if is_shifted else None
        return (latents - (shift or 0.0)) * self.vae.config.scaling_factor

    @abstractmethod
    def clean_latents(
        self, scheduler: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: tuple[Any, ...]
    ) -> "Tensor":
        """The latents that the denoiser, called with `args` and `kwargs`, took its last input for, (1, c, h, w)."""

    def condition(
        self, controlnet: Any, image: "Image", generator: "torch.Generator", second: "torch.Generator"
    ) -> Any:
        """A control map, of the size of the picture, as a ControlNet of the family takes it. What is random in that
        comes from the `generator` of the picture, or from a `second` one of the same seed for all maps of the picture,
        where diffusers draws from torch's own."""
        raise NotImplementedError

    def residuals(
        self, control: "Conditioned", args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> "dict[str, Tensor | list[Tensor]]":
        """What a ControlNet adds, by the names under which the denoiser, called with `args` and `kwargs`, takes it."""
        raise NotImplementedError

    def take_styles(self, adapters: "Sequence[IPAdapter]") -> None:
        """Put style adapters into the denoiser, which `engine.adapters.ip_adapter` takes out again."""
        self.denoiser._load_ip_adapter_weights([adapter.state for adapter in adapters])


@dataclass(frozen=True, kw_only=True)
class Conditioned:
    """A ControlNet with its map, as `Components.condition` gives it, the kind of the map, and the strength. `memory` is
    the family's, for what a step can take over from the one before."""

    controlnet: Any
    condition: Any
    kind: str
    strength: float
    memory: "dict[int, Tensor]" = field(default_factory=dict)


@dataclass(kw_only=True)
class IPAdapter:
    """A style adapter: its weights as diffusers groups them, and the encoder that looks at the reference.

    It takes the encoder's summary of the reference, or, with `takes_patches`, what the last layer but one says of each
    patch. Where there is no reference it takes zeros, or, with `nothing_is_black`, a black picture.
    """

    state: dict[str, dict[str, "torch.Tensor"]]
    image_encoder: Any
    feature_extractor: Any
    takes_patches: bool = False
    nothing_is_black: bool = False
