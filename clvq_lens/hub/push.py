"""Pushing a quantizer to the Hub: its two files and a model card, in one commit."""

from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo
from huggingface_hub.errors import RevisionNotFoundError

from clvq_lens.arguments import check_is
from clvq_lens.errors import ConfigError, HubError
from clvq_lens.evaluation.evaluation import Evaluation
from clvq_lens.host.attachment import Attached
from clvq_lens.hub.card import card
from clvq_lens.hub.client import client
from clvq_lens.hub_errors import hub_errors
from clvq_lens.quantizer.files import CONFIG, WEIGHTS, is_ours, save

_CARD = "README.md"
_MESSAGE = "Quantizer written by clvq-lens"


def push_to_hub(
    lens: Attached,
    repo: str,
    *,
    evaluation: Evaluation | None = None,
    license: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    message: str | None = None,
) -> str:
    """Writes the quantizer and a model card to the Hugging Face Hub; `clvq_lens.load` reads it.

    One commit replaces config.json, weights and README.md of an earlier push; other files stay.
    Every check comes before that commit.

    Args:
        lens: A fitted lens; it may have been removed from its model.
        repo: Name of the repository, "user/repo"; created if needed.
        evaluation: What `clvq_lens.Lens.evaluate` returned, to show it on the card.
        license: The license as the Hub abbreviates it, such as "mit".
        private: Whether a new repository is private; None: as the user's settings say.
        token: Access token that may write; None: the one of ``hf auth login``.
        revision: Branch to push to, created if needed; None: the main branch.
        message: Message of the commit.

    Returns:
        The address of the commit.

    Raises:
        NotFittedError: If the quantizer has not been fitted.
        HubError: If the Hub cannot be reached, or refuses; or if the repository holds another
            program's config.json, or exists and is not as private as ``private`` asks for.
        ConfigError: If the name or the license is impossible.

    Example:
        >>> lens.push_to_hub("user/gpt2-4-8", evaluation=evaluation)  # doctest: +SKIP
    """
    check_is("lens", lens, Attached, "Pass what model.add_clvq(...) returned.")
    # Not `ready`: as for saving, only the quantizer matters, not the state of its model.
    quantizer = lens.attachment.quantizer
    quantizer.require_fitted()
    api = client(token)
    with TemporaryDirectory() as folder:
        save(quantizer, folder)
        with hub_errors(repo, revision, "write"):
            repo = api.create_repo(repo, private=private, exist_ok=True).repo_id
            head = _head(api, repo, revision)
            _check_visibility(head, repo, private)
            _refuse_foreign(api, head, repo)
            text = card(quantizer, repo, evaluation=evaluation, license=license, revision=revision)
            (Path(folder) / _CARD).write_text(text, encoding="utf-8")
            return _commit(api, repo, Path(folder), head, revision, message or _MESSAGE)


def _head(api: HfApi, repo: str, revision: str | None) -> ModelInfo:
    """The commit that the new one goes on top of."""
    try:
        return api.model_info(repo, revision=revision)
    except RevisionNotFoundError:
        # A new branch starts from the main one; it is created after all checks.
        return api.model_info(repo)


def _check_visibility(head: ModelInfo, repo: str, private: bool | None) -> None:
    if private is not None and head.private is not None and head.private != private:
        now, wanted = ("private", "public") if head.private else ("public", "private")
        raise HubError(
            f"The repository {repo!r} exists and is {now}; a push does not make it {wanted}. "
            f"Change that in its settings, or leave private=... out."
        )


def _refuse_foreign(api: HfApi, head: ModelInfo, repo: str) -> None:
    """Raises `HubError` if pushing would overwrite another program's config.json."""
    if CONFIG not in _file_names(head):
        return
    if not is_ours(Path(api.hf_hub_download(repo, CONFIG, revision=head.sha))):
        raise HubError(
            f"The repository {repo!r} holds a {CONFIG} that clvq_lens did not write, and pushing "
            f"would overwrite it. Pass a repository that holds nothing else."
        )


def _commit(
    api: HfApi, repo: str, folder: Path, head: ModelInfo, revision: str | None, message: str
) -> str:
    """Replaces the files of an earlier push in one commit, and returns its address."""
    operations = _operations(folder, head)
    if revision is not None:
        api.create_branch(repo, branch=revision, revision=head.sha, exist_ok=True)
    try:
        commit = api.create_commit(
            repo,
            operations,
            commit_message=message,
            revision=revision,
            # The Hub refuses if somebody pushed meanwhile, so that two pushes cannot mix.
            parent_commit=head.sha,
        )
        return commit.commit_url
    except ValueError as error:
        # The client has no class of its own for this error.
        if "metadata in README.md" not in str(error):
            raise
        raise ConfigError(
            f"{api.endpoint} does not accept the model card. {error} Pass a license=... that it "
            f"knows, such as 'mit'."
        ) from error


def _operations(folder: Path, head: ModelInfo) -> list[CommitOperationAdd | CommitOperationDelete]:
    """Adds every file of the folder, and deletes the weights of an earlier push."""
    operations: list[CommitOperationAdd | CommitOperationDelete] = []
    new_names = sorted(path.name for path in folder.iterdir())
    for name in new_names:
        operations.append(CommitOperationAdd(name, folder / name))
    for name in _file_names(head):
        # Files of weights are named by their hash, so new ones do not overwrite old ones.
        if WEIGHTS.fullmatch(name) and name not in new_names:
            operations.append(CommitOperationDelete(name))
    return operations


def _file_names(head: ModelInfo) -> list[str]:
    return [file.rfilename for file in head.siblings or []]
