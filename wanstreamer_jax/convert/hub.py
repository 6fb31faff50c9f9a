"""Checkpoints from the Hugging Face Hub: safetensors and JSON only, of one revision."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from wanstreamer_jax.convert.container import CheckpointError

SUFFIXES = (".safetensors", ".json")
Answer = TypeVar("Answer")


def download(repo: str, revision: str, folder: str) -> tuple[Path, str]:
    """Fetch the weights and JSON files of a folder of a repository; returns where they lie and the commit they are of.

    `revision` is a branch, a tag or a commit; `folder` "" is the top. Files that are there already are not fetched
    again (the Hub's own cache, `HF_HOME`). Raises CheckpointError when the Hub cannot be reached or has no such thing.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise CheckpointError("--repo needs huggingface_hub: pip install 'wanstreamer-jax[convert]'") from error
    where = f"{repo} at {revision}"
    info = _ask(where, lambda: huggingface_hub.HfApi().model_info(repo, revision=revision))
    names = [file.rfilename for file in info.siblings or () if _is_wanted(file.rfilename, folder)]
    if info.sha is None or not any(name.endswith(".safetensors") for name in names):
        raise CheckpointError(f"{where}: no safetensors files in {folder or 'its top folder'}")
    root = _ask(where, lambda: huggingface_hub.snapshot_download(repo, revision=info.sha, allow_patterns=names))
    return Path(root, folder), info.sha


def _ask(where: str, question: Callable[[], Answer]) -> Answer:
    """The Hub's answer; CheckpointError when there is none."""
    try:
        return question()
    except Exception as error:  # of its HTTP library too, which is another in every version
        raise CheckpointError(f"{where}: cannot be fetched: {error}") from error


def _is_wanted(name: str, folder: str) -> bool:
    return name.endswith(SUFFIXES) and Path(name).parent == Path(folder)
