"""Loading a quantizer from a folder or from the Hub, checked before anything is built."""

import os
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, RemoteEntryNotFoundError
from huggingface_hub.utils import validate_repo_id

from clvq_lens.errors import ConfigError, FileFormatError, HubNotFoundError
from clvq_lens.hub.client import client
from clvq_lens.hub_errors import hub_errors
from clvq_lens.quantizer import files
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer


def load(
    source: str | Path, *, revision: str | None = None, token: str | bool | None = None
) -> CrossLayerQuantizer:
    """Reads a quantizer from a folder or the Hub; attach it with ``model.add_clvq(quantizer=...)``.

    From a repository it downloads config.json and checks it, then downloads the one file of
    weights that config.json names, from the same commit. Both stay in the Hub's cache. Nothing is
    unpickled or run, and hash, names, shapes and types are checked before anything is built.

    Args:
        source: The folder that ``lens.save`` wrote, or the "user/repo" that ``lens.push_to_hub``
            wrote. A `Path`, or a name that exists here, is never looked up on the Hub.
        revision: Branch, tag or commit of the repository; None: its main branch.
        token: Access token for the Hub; None: the one of ``hf auth login``, if any; False: no
            token.

    Raises:
        FileNotFoundError: If there is neither such a folder nor such a repository or revision.
        HubError: If the Hub cannot be reached, or refuses. An `OSError`.
        FileFormatError: If a file is damaged, does not fit the others, or was written by another
            program.
        NewerFormatError: If a newer version of this library wrote it.
        ConfigError: If a revision is passed with a folder.

    Example:
        >>> quantizer = load("runs/gpt2-4-8")  # doctest: +SKIP
        >>> quantizer = load("user/gpt2-4-8", revision="v1")  # doctest: +SKIP
    """
    # os.path says no where pathlib raises: at names too long for the system.
    if isinstance(source, Path) or os.path.exists(Path(source)):
        if revision is not None:
            raise ConfigError(
                f"revision is {revision!r}, but {str(source)!r} is a folder here, and folders have "
                f"no revisions. Leave it out, or load from another working directory."
            )
        return files.load(source)
    if not _is_repository_name(source):
        raise HubNotFoundError(
            f"{source!r} is neither a folder nor the name of a repository. Pass the folder that "
            f"lens.save(folder) wrote, or 'user/repo' on the Hub."
        )
    return _load_repository(client(token), source, revision)


def _is_repository_name(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    # A name without a user, such as "gpt2", is more likely a mistyped folder.
    return "/" in name


def _load_repository(api: HfApi, repo: str, revision: str | None) -> CrossLayerQuantizer:
    config = _fetch(api, repo, files.CONFIG, revision)
    # From the same commit: otherwise a push between the two downloads would mix them.
    commit = config.parent.name
    try:
        _fetch(api, repo, files.read_config(config).weights, commit)
        return files.load(config.parent)
    except FileFormatError as error:
        raise type(error)(
            f"The repository {repo!r} holds no quantizer that can be loaded. {error} If the "
            f"download was damaged, delete {config.parents[2]} and load again."
        ) from error


def _fetch(api: HfApi, repo: str, name: str, revision: str | None) -> Path:
    """The path of a file in the cache: ``.../snapshots/<commit>/<name>``."""
    with hub_errors(repo, revision, "read"):
        try:
            return Path(api.hf_hub_download(repo, name, revision=revision))
        except RemoteEntryNotFoundError as error:
            raise FileFormatError(
                f"The repository {repo!r} has no {name}. "
                f"Pass a repository that lens.push_to_hub(repo) wrote."
            ) from error
