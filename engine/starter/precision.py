"""Which precision this processor computes fast in. Knows nothing of what is computed."""

from functools import cache

import torch


@cache
def fast_dtype() -> torch.dtype:
    """bfloat16 where the processor has it, which doubles the speed and more; else float32: emulated, bfloat16 takes
    twelve to twenty times as long."""
    hardware = torch.cpu.get_capabilities()
    return torch.bfloat16 if hardware.get("avx512_bf16") or hardware.get("amx_bf16") else torch.float32


def autocast() -> torch.autocast:
    """Forward and backward pass in the fast precision; weights and optimizer stay float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=fast_dtype() == torch.bfloat16)
