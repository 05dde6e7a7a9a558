"""Step caches for transformers: where a step changes little, its blocks are not computed but taken from an earlier one.

Both are diffusers' own. First-block cache looks at how much the output of the first block moved (ParaAttention, after
TeaCache, arXiv 2411.19108); MagCache at how much a residual was found to move in general (arXiv 2506.09045). Knows
nothing of pipelines.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.settings import StepCacheName


@contextmanager
def attach_step_cache(denoiser: Any, name: StepCacheName, *, threshold: float, steps: int) -> Iterator[None]:
    """Let the denoiser skip blocks in the body, which is one picture of `steps` steps. It takes what it skips from the
    steps before, as long as they differ by no more than the `threshold`."""
    from diffusers.hooks import FirstBlockCacheConfig, MagCacheConfig
    from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS

    if name == "first_block":
        config: Any = FirstBlockCacheConfig(threshold=threshold)
    else:
        config = MagCacheConfig(threshold=threshold, num_inference_steps=steps, mag_ratios=FLUX_MAG_RATIOS)
    denoiser.enable_cache(config)
    try:
        yield
    finally:
        denoiser.disable_cache()
