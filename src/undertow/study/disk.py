"""Whether a failure comes from a full disk."""

import errno

# How libraries that wrap an error of the system in one of their own pass it on.
_WORDS = ("No space left on device", "Disk quota exceeded", "os error 28")


def is_full_disk(error: BaseException) -> bool:
    """Whether there was no room on a disk, however many libraries passed that on."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(seen) for words in _WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
