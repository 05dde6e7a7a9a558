"""How many bytes a computation holds at most, found by doing it on the meta device: shapes without numbers.

Every tensor that torch makes counts from when it is made until it is freed, and autograd and Python keep it exactly as
long as they would on a real device. So the figure holds for any model, forwards and backwards. Knows nothing of models
or settings.
"""

import math
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, dtype


class Meter:
    """The bytes held now, and the most that were needed at once."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self.peak_bytes = 0
        self._known: set[int] = set()

    def hold(self, tensor: "Tensor", *, counts: bool = True) -> None:
        storage = tensor.untyped_storage()
        if (key := storage._cdata) not in self._known:
            size_bytes = storage.nbytes() if counts else 0
            self._known.add(key)
            self.held_bytes += size_bytes
            weakref.finalize(storage, self._freed, key, size_bytes)

    def need(self, more_bytes: int) -> None:
        self.peak_bytes = max(self.peak_bytes, self.held_bytes + more_bytes)

    def restart(self) -> int:
        """The most until now; from here on it is found anew."""
        peak_bytes, self.peak_bytes = self.peak_bytes, self.held_bytes
        return peak_bytes

    def _freed(self, key: int, size_bytes: int) -> None:
        self._known.discard(key)
        self.held_bytes -= size_bytes


@contextmanager
def metered(weights: "Iterable[Tensor]" = ()) -> Iterator[Meter]:
    """Count what the body makes on the meta device. The `weights` are there already and do not count."""
    from torch import Tensor
    from torch.utils._python_dispatch import TorchDispatchMode

    meter = Meter()
    for tensor in weights:
        meter.hold(tensor, counts=False)

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
            result = _looked_at(func, args, kwargs)
            if result is None:
                result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else (result,):
                if isinstance(tensor, Tensor):
                    meter.hold(tensor)
            meter.need(_scratch_bytes(func, args, result))
            return result

    with Counting():
        yield meter


def _looked_at(func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    """What an operation returns that looks at values: each of a mask is true, all others are zero; None for operations
    that do not. Text encoders cut off padding by such masks: an estimate is of the longest text."""
    import torch

    aten, value = torch.ops.aten, args[0] if args else None
    if not isinstance(value, torch.Tensor) or not value.is_meta:
        return None
    is_mask = value.dtype == torch.bool
    if func is aten._local_scalar_dense.default:
        return is_mask or 0
    if func is aten._to_copy.default and kwargs and kwargs.get("device") == torch.device("cpu"):
        return torch.full(value.shape, is_mask or 0, dtype=kwargs.get("dtype") or value.dtype)
    if func is aten.index.Tensor and len(args[1]) == 1 and args[1][0].dtype == torch.bool:
        return value.flatten(0, args[1][0].ndim - 1).clone()
    if func is aten.sum.dim_IntList and is_mask:
        dims = [dim % value.ndim for dim in args[1]]
        kept = [size for dim, size in enumerate(value.shape) if dim not in dims]
        return torch.full(kept, math.prod(value.shape[dim] for dim in dims))
    return None


def _scratch_bytes(func: Any, args: tuple[Any, ...], result: Any) -> int:
    """What an operation needs for itself: a convolution brings its weight into blocks, as oneDNN and cuDNN have it, and
    so its input and output, unless their channels come last."""
    import torch

    if func is not torch.ops.aten.convolution.default:
        return 0
    pixels, weight = args[:2]
    channels_last = pixels.stride(-1) != 1 or weight.stride(-1) != 1
    return weight.nbytes + (0 if channels_last else pixels.nbytes + result.nbytes)


@contextmanager
def as_on_a_device(
    half: "dtype | None" = None, *, norms_in_single: bool = False, plain_attention: bool = False
) -> Iterator[None]:
    """In the body, what torch would choose on a real device and does not on meta: attention in one kernel, which keeps
    no matrix of weights, unless `plain_attention`; autocast of products to `half`, and of norms to single precision as
    on a CUDA device.
    """
    import torch
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    products = {functional.linear, functional.conv2d, torch.matmul, torch.bmm, torch.baddbmm}
    norms = {functional.group_norm, functional.layer_norm} if norms_in_single else set()

    class Choosing(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            is_attention = func is functional.scaled_dot_product_attention
            if half is not None and (is_attention or func in products or func in norms):
                wanted = torch.float32 if func in norms else half
                args = tuple(_cast(value, wanted) for value in args)
                kwargs = {name: _cast(value, wanted) for name, value in kwargs.items()}
            if is_attention and not plain_attention:
                return _fused_attention(*args, **kwargs)
            return func(*args, **kwargs)

    with Choosing():
        yield


def _cast(value: Any, wanted: "dtype") -> Any:
    import torch

    return value.to(wanted) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _fused_attention(
    query: "Tensor",
    key: "Tensor",
    value: "Tensor",
    attn_mask: "Tensor | None" = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> "Tensor":
    import torch

    if enable_gqa:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    output, _ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )
    return output
