"""The adapter that is trained is the one that the studio loads."""

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from engine.families.starter import PRESET
from engine.starter.style import EMBEDDING, AdapterWeights

ADAPTER = PRESET / "ip_adapter" / "ip-adapter.safetensors"


def test_attached_weights_are_the_files_and_weighed_with_nothing_change_nothing() -> None:
    unet = UNet2DConditionModel.from_pretrained(PRESET / "unet", torch_dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, unet.config["in_channels"], 16, 16, generator=generator)
    words = torch.randn(1, 4, unet.config["cross_attention_dim"], generator=generator)
    reference = {"image_embeds": [torch.randn(1, 1, EMBEDDING, generator=generator)]}
    with torch.no_grad():
        without = unet(latents, 500, words).sample
        weights = AdapterWeights.attached(unet, ADAPTER)
        with_it = unet(latents, 500, words, added_cond_kwargs=reference).sample
        weights.weigh(0.0)
        weighed_with_nothing = unet(latents, 500, words, added_cond_kwargs=reference).sample
    assert torch.equal(weighed_with_nothing, without)
    assert not torch.allclose(with_it, without, atol=1e-2)
    state = weights.state()
    for name, value in load_file(ADAPTER).items():
        assert torch.equal(state[name], value), name
