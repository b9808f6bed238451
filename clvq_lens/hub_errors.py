"""Errors of the Hub, each with its remedy."""

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
    """Turns errors of the Hub's client into ours, which say what to do.

    Args:
        repo: The repository.
        revision: The revision that was asked for.
        purpose: What is done with the repository.
    """
    try:
        yield
    except LocalEntryNotFoundError as error:
        # The file is not in the cache either. Its cause says why the Hub did not give it.
        raise _explained(error.__cause__ or error, repo, revision, purpose) from error
    except HFValidationError as error:
        raise ConfigError(
            f"{repo!r} cannot be the name of a repository: {error} Pass 'user/repo'."
        ) from error
    except (TransportError, OfflineModeIsEnabled) as error:
        raise _explained(error, repo, revision, purpose) from error
    except RuntimeError as error:
        # The client turns a failed upload into a RuntimeError; all others are not about the Hub.
        if not isinstance(error.__cause__, TransportError):
            raise
        raise _explained(error.__cause__, repo, revision, purpose) from error


def _explained(
    error: BaseException, repo: str, revision: str | None, purpose: Literal["read", "write"]
) -> HubError:
    hub = constants.ENDPOINT
    login = (
        f"log in with `hf auth login`, or pass token=..., a token from {hub}/settings/tokens that "
        f"may {purpose}"
    )
    # From special to general: most of these are HfHubHTTPErrors too.
    if isinstance(error, GatedRepoError):
        return HubError(
            f"The repository {repo!r} is gated, and you have no access to it. Ask for access on "
            f"{hub}/{repo}, then {login}."
        )
    if isinstance(error, RepositoryNotFoundError):
        # A name that is read may also have been meant as a folder.
        missing = f"There is no folder {repo!r} here, and" if purpose == "read" else "There is"
        return HubNotFoundError(
            f"{missing} no repository {repo!r} on {hub} that you may {purpose}. Check the name. "
            f"If it is right and the repository is private, {login}."
        )
    if isinstance(error, RevisionNotFoundError):
        return HubNotFoundError(
            f"The repository {repo!r} has no revision {revision!r}. Pass a branch, a tag or the "
            f"hash of a commit, or None for the main branch."
        )
    if isinstance(error, OfflineModeIsEnabled):
        return HubError(
            f"HF_HUB_OFFLINE is set, so {repo!r} cannot be reached. Unset it, or load a "
            f"repository that was loaded before."
        )
    if isinstance(error, HfHubHTTPError):
        return _refusal(error, repo, purpose, login)
    return HubError(
        f"Could not {purpose} {repo!r} on {hub} ({type(error).__name__}: {error}). "
        f"Check the connection, the proxy if there is one, and HF_ENDPOINT if it is set."
    )


def _refusal(error: HfHubHTTPError, repo: str, purpose: str, login: str) -> HubError:
    """The error for what the Hub answered with a status that has no class of its own."""
    status = error.response.status_code
    answer = error.server_message or error.response.reason_phrase
    remedy = login if status in (401, 403) else "fix what it complains about, or try again later"
    return HubError(
        f"{constants.ENDPOINT} does not let you {purpose} {repo!r} ({status}: {answer}): {remedy}."
    )
