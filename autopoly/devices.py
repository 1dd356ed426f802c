"""Which device torch computes on, in which numbers, and what it says when memory runs out."""

from __future__ import annotations

import ctypes

import torch

from autopoly.errors import DataError

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED")
"""How torch's allocators for the processor and for Apple GPUs, and NVIDIA's libraries, say it in a plain RuntimeError."""

M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD = -8, -4, -1
"""Numbers of glibc's malloc.h."""


def choose(device: str) -> str:
    """Resolve ``auto`` to the best device of this machine; raise DataError for one that is not there."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name in here if here[name])
    if not here.get(device.split(":")[0], False):
        raise DataError(f"--device {device}: torch sees no such device here; use auto or cpu")
    return device


def has_bf16(device: str) -> bool:
    """Say whether a device multiplies bf16 in hardware; the emulation says yes on every card, and is slow."""
    kind = torch.device(device).type
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return kind == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether torch or numpy asked for more memory than there is, on a GPU or on the processor."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in said for word in OUT_OF_MEMORY)


def keep_memory() -> None:
    """Let this process keep the memory that it frees, where the C library is glibc.

    It gives every large block back to the kernel at once, and the next tensor of that size is zeroed and mapped anew, page by page: a tenth
    of the time of a network on the processor.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return
    mallopt(M_ARENA_MAX, 1)  # a thread's own heap holds no block above 64 MB
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
