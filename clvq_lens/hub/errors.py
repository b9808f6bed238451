"""What can go wrong on the Hub, said with its remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.errors import (
    HTTPError as TransportError,  # pyright: ignore[reportPrivateImportUsage]  # httpx's or httpx2's
)

from clvq_lens.errors import ConfigError, HubError, HubNotFoundError


@contextmanager
def hub_errors(
    repo: str, revision: str | None, purpose: Literal["read", "write"]
) -> Iterator[None]:
    """Turns errors of the Hub's client into ours.

    Args:
        repo: The repository.
        revision: As asked for.
        purpose: What is done with it.
    """
    try:
        yield
    except LocalEntryNotFoundError as error:  # neither there nor in the cache: what of the former?
        raise _explained(error.__cause__ or error, repo, revision, purpose) from error
    except HFValidationError as error:
        raise ConfigError(
            f"{repo!r} cannot be the name of a repository: {error} Pass 'user/repo'."
        ) from error
    except (TransportError, OfflineModeIsEnabled) as error:
        raise _explained(error, repo, revision, purpose) from error
    except RuntimeError as error:  # which the client makes of what fails in an upload
        if not isinstance(error.__cause__, TransportError):
            raise
        raise _explained(error.__cause__, repo, revision, purpose) from error


def _explained(
    error: BaseException, repo: str, revision: str | None, purpose: Literal["read", "write"]
) -> HubError:
    hub = constants.ENDPOINT
    token = f"a token from {hub}/settings/tokens that may {purpose}"
    login = f"log in with `hf auth login`, or pass token=..., {token}"
    if isinstance(error, GatedRepoError):
        return HubError(
            f"The repository {repo!r} is gated, and you have no access to it. Ask for it on "
            f"{hub}/{repo}, then {login}."
        )
    if isinstance(error, RepositoryNotFoundError):
        here = f"There is no folder {repo!r} here, and" if purpose == "read" else "There is"
        return HubNotFoundError(
            f"{here} no repository {repo!r} on {hub} that you may {purpose}. Check the name; if "
            f"it is right and the repository private, {login}."
        )
    if isinstance(error, RevisionNotFoundError):
        return HubNotFoundError(
            f"The repository {repo!r} has no revision {revision!r}. "
            f"Pass a branch, a tag or the hash of a commit; None is its main branch."
        )
    if isinstance(error, OfflineModeIsEnabled):
        return HubError(
            f"HF_HUB_OFFLINE is set, and {repo!r} cannot be had without the network. "
            f"Unset it, or load what was loaded before."
        )
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        said = error.server_message or error.response.reason_phrase
        remedy = login if status in (401, 403) else "mend what it complains of, or try again later"
        return HubError(f"{hub} does not let you {purpose} {repo!r} ({status}: {said}): {remedy}.")
    return HubError(
        f"Could not {purpose} {repo!r} on {hub} ({type(error).__name__}: {error}). "
        f"Check the connection, a proxy, and HF_ENDPOINT if it is set."
    )
