"""Pretrained models by folder or by name on the model hub: which commit is loaded, and why one cannot be."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pipelines.stage import StageError


def commit(name: str, revision: str | None, subfolder: str | None) -> str | None:
    """The commit whose files a name means: the newest of the revision, or offline the one in the cache.

    Asked of the hub itself, because the configs that the libraries load do not keep it in all versions. None for a
    folder, and for what cannot be found.
    """
    if Path(name).is_dir():
        return None
    from huggingface_hub import hf_hub_download  # here: what trains from folders alone need not load it

    with contextlib.suppress(OSError, ValueError):
        config = f"{subfolder}/config.json" if subfolder else "config.json"
        parts = Path(hf_hub_download(name, config, revision=revision)).parts
        return parts[parts.index("snapshots") + 1]
    return None


def unreadable(what: str, name: str, revision: str | None, subfolder: str | None, error: Exception) -> StageError:
    """What to tell of a pretrained model that a library could not load."""
    reason = _not_in_cache(name, revision, subfolder) or (str(error).strip() or type(error).__name__).splitlines()[0]
    return StageError(
        f"pretrained {what} {name!r} cannot be loaded: {reason}\n"
        "Give an existing folder, or a hub name (and subfolder) that this machine reaches or has in its cache."
    )


def _not_in_cache(name: str, revision: str | None, subfolder: str | None) -> str | None:
    """The reason where the hub may not be asked; the libraries speak of a missing file or a lost connection then."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE or Path(name).is_dir() or commit(name, revision, subfolder):
        return None
    wanted = "/".join(filter(None, [name, subfolder])) + (f"@{revision}" if revision else "")
    return f"HF_HUB_OFFLINE is set, and the cache {constants.HF_HUB_CACHE} does not hold {wanted}."
