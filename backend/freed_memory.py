"""What happens to memory that this process frees: glibc keeps some of it for the next request."""

import ctypes
import gc

# Names and numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def keep_freed_memory() -> None:
    """Tell glibc to keep large blocks of freed memory: getting them anew would slow the next prediction down."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # macOS has no mallopt
        libc.mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(_M_TRIM_THRESHOLD, 128 * 2**20)
        # Each thread that fetches images would keep memory of its own.
        libc.mallopt(_M_ARENA_MAX, 2)


def return_freed_memory() -> None:
    """Return what loading has freed to the system: 130 MB with the bundle `photos`."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # only glibc has it
        libc.malloc_trim(0)
