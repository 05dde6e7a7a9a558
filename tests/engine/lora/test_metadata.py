"""What a LoRA file says of itself, in the words that other programs know."""

import pytest
import torch

from engine import families
from engine.lora.metadata import described
from engine.lora.networks import Network

# As SwarmUI's T2IModelClassSorter has them, with its remappings of what sd-scripts writes (library/sai_model_spec.py)
ARCHITECTURES = {
    "sd15": "stable-diffusion-v1/lora",
    "sdxl": "stable-diffusion-xl-v1-base/lora",
    "sd35_medium": "stable-diffusion-v3.5-medium/lora",
    "sd35_large": "stable-diffusion-v3.5-large/lora",
    "flux_dev": "flux-1-dev/lora",
    "flux_krea": "flux-1-dev/lora",
    "flux_schnell": "flux-1-dev/lora",
    "flux2_klein": "flux.2-klein-4b/lora",
    "flux2_klein_base": "flux.2-klein-4b/lora",
    "qwen_image": "qwen-image/lora",
    "z_image": "z-image/lora",
    "z_image_turbo": "z-image/lora",
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_programs_know_the_architecture(name: str) -> None:
    factor = {"lora_up": torch.zeros(2, 1), "lora_down": torch.zeros(1, 3)}
    network = Network(kind="LoRA", factors=(factor,), shape=(2, 3), rank=1, alpha=1.0)
    said = described({"transformer.layer": network}, families.base(name))
    assert said["modelspec.architecture"] == ARCHITECTURES[name]
