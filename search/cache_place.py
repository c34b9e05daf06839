"""Whether the folder of the caches can be used, in a sentence for people: without it a run is slower, not wrong."""

from __future__ import annotations

import os
import tempfile

from ..compressors.cache import VARIABLE, cache_folder


def cache_problem() -> str:
    """Return why nothing can be kept on disk although it should be, and what to do; "" if all is well."""
    folder = cache_folder()
    if folder is None:
        return ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        named = f"{VARIABLE} = {str(folder)!r}" if os.environ.get(VARIABLE) else f"the cache folder {folder}"
        return (
            f"{named}: nothing can be kept there ({error.strerror}), so what is measured of the layers serves this run "
            f"only. Set {VARIABLE} to a folder that you may write to, or to off."
        )
    return ""


def cache_kept() -> bool:
    """Whether results are kept on disk, beyond the memory of each process."""
    return cache_folder() is not None and not cache_problem()
