"""Pushing a quantizer to the Hub: its two files and a model card, in one commit."""

from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo
from huggingface_hub.errors import RevisionNotFoundError

from clvq_lens.errors import ConfigError, HubError
from clvq_lens.evaluation.report import Report
from clvq_lens.hub.card import card
from clvq_lens.hub.client import client
from clvq_lens.hub.errors import hub_errors
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.files import CONFIG, WEIGHTS, is_ours, save

_CARD = "README.md"
_MESSAGE = "Quantizer written by clvq-lens"


def push(
    quantizer: CrossLayerQuantizer,
    repo: str,
    *,
    report: Report | None = None,
    license: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    message: str | None = None,
) -> str:
    """Writes a fitted quantizer to a repository of the Hub; as `Lens.push_to_hub`.

    Everything that could be refused is looked at before the one commit, which replaces the files
    of an earlier push or does nothing at all.

    Returns:
        Address of the commit.
    """
    quantizer.require_fitted()
    api = client(token)
    with TemporaryDirectory() as folder:
        save(quantizer, folder)
        with hub_errors(repo, revision, "write"):
            repo = api.create_repo(repo, private=private, exist_ok=True).repo_id
            head = _head(api, repo, revision)
            _check_visibility(head, repo, private)
            _refuse_foreign(api, head, repo)
            text = card(quantizer, repo, report=report, license=license, revision=revision)
            (Path(folder) / _CARD).write_text(text, encoding="utf-8")
            return _commit(api, repo, Path(folder), head, revision, message or _MESSAGE)


def _head(api: HfApi, repo: str, revision: str | None) -> ModelInfo:
    """Where the commit goes; a branch that does not exist yet is made only when it does."""
    try:
        return api.model_info(repo, revision=revision)
    except RevisionNotFoundError:
        return api.model_info(repo)


def _check_visibility(head: ModelInfo, repo: str, private: bool | None) -> None:
    if private is not None and head.private is not None and head.private != private:
        is_, wanted = ("private", "public") if head.private else ("public", "private")
        raise HubError(
            f"The repository {repo!r} exists and is {is_}; a push does not make it {wanted}. "
            f"Change that in its settings, or leave private=... out."
        )


def _refuse_foreign(api: HfApi, head: ModelInfo, repo: str) -> None:
    """Raises rather than overwrite the config.json of a model."""
    if CONFIG not in _names(head):
        return
    if not is_ours(Path(api.hf_hub_download(repo, CONFIG, revision=head.sha))):
        raise HubError(
            f"The repository {repo!r} holds a {CONFIG} that clvq_lens did not write, and pushing "
            f"would overwrite it. Pass a repository of its own."
        )


def _commit(
    api: HfApi, repo: str, folder: Path, head: ModelInfo, revision: str | None, message: str
) -> str:
    """One commit on top of ``head`` and nothing else, so that two pushes cannot mix."""
    new = sorted(path.name for path in folder.iterdir())
    stale = [name for name in _names(head) if WEIGHTS.fullmatch(name) and name not in new]
    operations = [CommitOperationAdd(name, folder / name) for name in new]
    if revision is not None:
        api.create_branch(repo, branch=revision, revision=head.sha, exist_ok=True)
    try:
        return api.create_commit(
            repo,
            [*operations, *(CommitOperationDelete(name) for name in stale)],
            commit_message=message,
            revision=revision,
            parent_commit=head.sha,
        ).commit_url
    except ValueError as error:
        if "metadata in README.md" not in str(error):
            raise
        raise ConfigError(
            f"{api.endpoint} does not accept the model card. {error} Pass a license=... that it "
            f"knows, such as 'mit'."
        ) from error


def _names(head: ModelInfo) -> list[str]:
    return [file.rfilename for file in head.siblings or []]
