"""Which kernel computes attention: the one that PyTorch takes by itself, or another that diffusers can call instead.

diffusers' transformers ask for attention in one place, and what is chosen there acts on all of them, ControlNets and
style adapters included. Knows nothing of bases or pipelines.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from engine.errors import BadSettings
from engine.settings import AttentionName


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One way to compute attention.

    `plain` is diffusers' name for it, `masked` for that of its kind which leaves out padding. It needs the `package`,
    if there is one, and a CUDA GPU of that compute `capability`, (0, 0) for none.
    """

    title: str
    plain: str
    masked: str
    package: str = ""
    capability: tuple[int, int] = (0, 0)


KERNELS: Mapping[AttentionName, Kernel] = {
    "math": Kernel(title="Plain attention", plain="_native_math", masked="_native_math"),
    "cudnn": Kernel(title="cuDNN's attention", plain="_native_cudnn", masked="_native_cudnn", capability=(8, 0)),
    "flash": Kernel(
        title="FlashAttention 2", plain="flash", masked="flash_varlen", package="flash_attn", capability=(8, 0)
    ),
    "flash_3": Kernel(
        title="FlashAttention 3",
        plain="_flash_3",
        masked="_flash_varlen_3",
        package="flash_attn_interface",
        capability=(9, 0),
    ),
    "sage": Kernel(
        title="SageAttention", plain="sage", masked="sage_varlen", package="sageattention", capability=(8, 0)
    ),
}
"""In order: all of the matrix at once, for comparison; NVIDIA's own; Dao, arXiv 2307.08691; Shah et al., arXiv
2407.08608; and Zhang et al., arXiv 2411.10958, with queries and keys in 8 bit."""

REMEDY = "Leave attention to PyTorch."


@contextmanager
def attending(name: AttentionName, *, is_masked: bool) -> Iterator[None]:
    """Let that kernel compute attention in the body; with "auto" nothing is touched. `is_masked` says that texts of a
    batch may be padded.

    Raises: BadSettings when diffusers finds the kernel's package too old, or broken.
    """
    with ExitStack() as stack:
        if name != "auto":
            from diffusers.models.attention_dispatch import attention_backend

            kernel = KERNELS[name]
            try:
                stack.enter_context(attention_backend(kernel.masked if is_masked else kernel.plain))
            except RuntimeError as error:
                raise BadSettings(f"{kernel.title} cannot be used here: {error}", REMEDY) from error
        yield
