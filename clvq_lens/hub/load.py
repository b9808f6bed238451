"""Loading a quantizer from a folder or from the Hub, verified step by step."""

import os
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, RemoteEntryNotFoundError
from huggingface_hub.utils import validate_repo_id

from clvq_lens.errors import ConfigError, FileFormatError, HubNotFoundError
from clvq_lens.hub.client import client
from clvq_lens.hub.errors import hub_errors
from clvq_lens.quantizer import files
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer


def load(
    source: str | Path, *, revision: str | None = None, token: str | bool | None = None
) -> CrossLayerQuantizer:
    """Reads a quantizer from a folder or the Hub; attach it with ``model.add_clvq(quantizer=...)``.

    Of a repository, config.json is fetched first and verified, then the one file of weights that
    it names, of the same commit; both stay in the Hub's cache. Nothing is unpickled or run, and
    hash, names, shapes and types are checked before anything is built.

    Args:
        source: The folder that ``lens.save`` wrote, or the "user/repo" that ``lens.push_to_hub``
            wrote. What exists here as a folder is not looked for on the Hub; nor is a `Path`.
        revision: Branch, tag or commit of the repository; None: its main branch.
        token: For the Hub; None: that of ``hf auth login``, if any; False: none.

    Raises:
        FileNotFoundError: If there is neither such a folder nor such a repository or revision.
        HubError: If the Hub cannot be reached, or refuses. An `OSError`.
        FileFormatError: If a file is damaged, does not fit the others, or is somebody else's.
        NewerFormatError: If a newer version of this library wrote it.
        ConfigError: If a revision of a folder is asked for.

    Example:
        >>> quantizer = load("runs/gpt2-4-8")  # doctest: +SKIP
        >>> quantizer = load("user/gpt2-4-8", revision="v1")  # doctest: +SKIP
    """
    if isinstance(source, Path) or os.path.exists(Path(source)):
        if revision is not None:
            raise ConfigError(
                f"revision is {revision!r}, but {str(source)!r} is a folder here, and folders have "
                f"none. Leave it out, or load from another working directory."
            )
        return files.load(source)
    if not _names_repository(source):
        raise HubNotFoundError(
            f"{source!r} is neither a folder nor the name of a repository. Pass the folder that "
            f"lens.save(folder) wrote, or 'user/repo' on the Hub."
        )
    return _load_repository(client(token), source, revision)


def _names_repository(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def _load_repository(api: HfApi, repo: str, revision: str | None) -> CrossLayerQuantizer:
    config = _fetch(api, repo, files.CONFIG, revision)
    commit = config.parent.name  # a push between the two files would mix them
    try:
        _fetch(api, repo, files.read_config(config).weights, commit)
        return files.load(config.parent)
    except FileFormatError as error:
        raise type(error)(
            f"The repository {repo!r} holds no quantizer that can be loaded. {error} If the "
            f"download was damaged, delete {config.parents[2]} and load again."
        ) from error


def _fetch(api: HfApi, repo: str, name: str, revision: str | None) -> Path:
    """A file of a repository, in the cache: ``.../snapshots/<commit>/<name>``."""
    with hub_errors(repo, revision, "read"):
        try:
            return Path(api.hf_hub_download(repo, name, revision=revision))
        except RemoteEntryNotFoundError as error:
            raise FileFormatError(
                f"The repository {repo!r} has no {name}. "
                f"Pass one that lens.push_to_hub(repo) wrote."
            ) from error
