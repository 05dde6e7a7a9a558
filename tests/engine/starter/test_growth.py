import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding

from engine.starter.growth import TOP_WIDTH, _older_embedding, grown, with_usual_time


def unet(**config: object) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=8,
        **config,  # type: ignore[arg-type]
    ).eval()


@pytest.fixture(scope="module")
def small() -> UNet2DConditionModel:
    return unet(block_out_channels=(96, 32))


def test_grows_by_one_level_for_twice_the_side(small: UNet2DConditionModel) -> None:
    larger = grown(small)
    assert larger.config["sample_size"] == 16
    assert larger.config["block_out_channels"] == (TOP_WIDTH, 96, 32)
    text, timesteps = torch.zeros(1, 3, 8), torch.tensor([500])
    assert larger(torch.zeros(1, 4, 16, 16), timesteps, text).sample.shape == (1, 4, 16, 16)


def test_inner_levels_keep_their_weights(small: UNet2DConditionModel) -> None:
    ours, theirs = grown(small).state_dict(), small.state_dict()
    moved = {
        "down_blocks.1.resnets.0.conv2.weight": "down_blocks.2.resnets.0.conv2.weight",
        "mid_block.resnets.0.conv1.weight": "mid_block.resnets.0.conv1.weight",
        "up_blocks.0.resnets.1.conv1.weight": "up_blocks.0.resnets.1.conv1.weight",
        "up_blocks.1.resnets.0.conv1.weight": "up_blocks.1.resnets.0.conv1.weight",
    }
    for old, new in moved.items():
        assert torch.equal(theirs[old], ours[new])


def test_the_slow_waves_of_the_older_embedding_are_kept() -> None:
    timesteps = torch.arange(1000)
    old = get_timestep_embedding(timesteps, 96, True, 0)
    new = get_timestep_embedding(timesteps, TOP_WIDTH, True, 0) @ _older_embedding(96, TOP_WIDTH).T
    frequencies = 10000 ** (-torch.arange(48) / 48)  # radians a step; cosines first, then sines
    slow = (frequencies < 0.01).repeat(2)
    assert slow.sum() > 40
    assert (new - old)[:, slow].abs().max() < 0.05


def test_a_narrower_time_embedding_says_the_same() -> None:
    wide = unet(block_out_channels=(64, 32), time_embedding_dim=384)
    usual = with_usual_time(wide).eval()
    assert usual.time_embedding.linear_1.out_features == 256
    x, text, timesteps = torch.randn(8, 4, 8, 8), torch.randn(8, 3, 8), torch.arange(0, 1000, 125)
    with torch.no_grad():
        expected, ours = (model(x, timesteps, text).sample for model in (wide, usual))
    assert (ours - expected).square().mean().sqrt() < 0.01 * expected.std()
