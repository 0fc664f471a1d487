"""How much memory that was let go a service keeps."""

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # as mallopt(3) of glibc calls them
LARGE = 1 << 22  # bytes of an allocation that goes back to the system at once
FREE = 1 << 25  # bytes at the end of a heap that do not go back
HEAPS = 2


def keep_little() -> None:
    """Let this process keep little memory that it does not use, where its C library is glibc.

    By itself glibc keeps arrays of up to 32 MiB for later once it has seen one of them let go, in a heap for each of some
    threads: a service that has worked on many people would hold twice what it needs.
    """
    try:
        if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            return
    except (ValueError, OSError):
        return
    library = ctypes.CDLL(None)
    for option, value in ((_MMAP_THRESHOLD, LARGE), (_TRIM_THRESHOLD, FREE), (_ARENA_MAX, HEAPS)):
        library.mallopt(option, value)
