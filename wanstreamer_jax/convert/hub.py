"""Checkpoints from the Hugging Face Hub: safetensors and JSON only, of one revision."""

from pathlib import Path

from wanstreamer_jax.convert.container import CheckpointError

SUFFIXES = (".safetensors", ".json")


def download(repo: str, revision: str, folder: str) -> tuple[Path, str]:
    """Fetch the weights and JSON files of a folder of a repository; returns where they lie and the commit they are of.

    `revision` is a branch, a tag or a commit; `folder` "" is the top. Files that are there already are not fetched
    again (the Hub's own cache, `HF_HOME`). Raises CheckpointError when the Hub cannot be reached or has no such thing.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise CheckpointError("--repo needs huggingface_hub: pip install 'wanstreamer-jax[convert]'") from error
    try:
        info = huggingface_hub.HfApi().model_info(repo, revision=revision)
        names = [file.rfilename for file in info.siblings or () if _is_wanted(file.rfilename, folder)]
        if info.sha is None or not any(name.endswith(".safetensors") for name in names):
            raise CheckpointError(f"{repo}: no safetensors files in {folder or 'its top folder'} at {revision}")
        root = huggingface_hub.snapshot_download(repo, revision=info.sha, allow_patterns=names)
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{repo} at {revision}: cannot be fetched: {error}") from error
    return Path(root, folder), info.sha


def _is_wanted(name: str, folder: str) -> bool:
    return name.endswith(SUFFIXES) and Path(name).parent == Path(folder)
