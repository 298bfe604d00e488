"""Files from the Hugging Face hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lofit.errors import LofitError


def fetch(hub_id: str, *, what: str, files: Sequence[str], **options: Any) -> Path:
    """The folder with those `files` of a repository, downloaded where the cache does not have them yet.

    Args:
        what: what the repository should be, for the message.
        files: their names, or patterns of them.
        options: the hub's: revision, token, cache_dir, force_download, local_files_only.

    Raises:
        LofitError: it cannot be had.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=[*files], **options))
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise LofitError(f"{what} {hub_id!r}: neither here nor on the Hugging Face hub ({reason})") from None
