"""Pushed and loaded again, through the Hub's own client and a stand-in for the Hub."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import constants

import clvq_lens as cl
from clvq_lens.config import CLVQConfig
from clvq_lens.errors import (
    ConfigError,
    FileFormatError,
    HubError,
    HubNotFoundError,
    NewerFormatError,
    NotFittedError,
)
from clvq_lens.hub.load import load
from clvq_lens.hub.push import push_to_hub
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.files import save
from tests.hosts import KINDS, Kind, words
from tests.hub.conftest import TOKEN, point_at
from tests.hub.stand_in import Hub
from tests.quantizer.test_files import make, random

REPO = "user/tiny-0-1"
# The client's own, where it sends files to a server that has no Xet storage.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def removed(quantizer: CrossLayerQuantizer) -> SimpleNamespace:
    """Stands for a lens that is not on its model any more."""
    return SimpleNamespace(attachment=SimpleNamespace(quantizer=quantizer))


def pushed(seed: int = 0, repo: str = REPO, **options: Any) -> CrossLayerQuantizer:
    quantizer = make(seed)
    push_to_hub(removed(quantizer), repo, **{"token": TOKEN, **options})
    return quantizer


def edit(hub: Hub, change: Callable[[dict[str, Any]], object], repo: str = REPO) -> None:
    """Changes the config.json of a repository, in a new commit."""
    files = dict(hub.files(repo))
    config = json.loads(files["config.json"])
    change(config)
    files["config.json"] = json.dumps(config, indent=2).encode()
    hub.repositories[repo].commit("main", files)


def weights_in(files: dict[str, bytes]) -> str:
    (name,) = [name for name in files if name.startswith("weights-")]
    return name


# ---- there and back ----------------------------------------------------------------------------


def test_what_was_pushed_loads_with_the_same_bits_and_codes(hub: Hub):
    quantizer, source = pushed(), random(2, 5, 4, seed=9)
    again = cl.load(REPO)
    assert (again.config, again.origin) == (quantizer.config, quantizer.origin)
    for name, tensor in quantizer.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert torch.equal(again.assign(source), quantizer.assign(source))
    assert torch.equal(again(source), quantizer(source))


@pytest.mark.parametrize(
    "kind", [k for k in KINDS if k.name in ("hooked-gpt2", "bridge-gpt2")], ids=str
)
def test_a_lens_is_pushed_and_attached_again(hub: Hub, kind: Kind):
    model, tokens = kind.model(), words(4, 12)
    lens = cl.add_clvq(model, kind.after(1), kind.after(2), n_codes=12, top_k=3)
    lens.fit(words(60, 16), n_tokens=3_000, batch_tokens=256, progress=False)
    codes = lens.encode(tokens).codes
    evaluation = lens.evaluate(tokens, progress=False)
    address = lens.push_to_hub(
        REPO, evaluation=evaluation, token=TOKEN, license="mit", message="First"
    )
    assert address == f"{hub.address}/{REPO}/commit/{hub.repositories[REPO].branches['main']}"
    lens.remove()
    again = cl.add_clvq(model, quantizer=cl.load(REPO))
    assert torch.equal(again.encode(tokens).codes, codes)
    assert b'"summary": "First"' in b"".join(hub.bodies)
    text = hub.files(REPO)["README.md"].decode()
    assert "license: mit" in text
    assert f"| `fvu` | {evaluation.fvu:.4g} |" in text


def test_a_repository_holds_what_save_writes_and_a_card(hub: Hub, tmp_path: Path):
    folder = save(pushed(), tmp_path / "saved")
    files = hub.files(REPO)
    saved = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(files) == {".gitattributes", "README.md", *saved}
    assert {name: files[name] for name in saved} == saved


def test_one_commit_changes_everything(hub: Hub):
    pushed(0)
    pushed(1)
    assert len(hub.repositories[REPO].commits) == 3  # the first comes with the repository


def test_pushing_again_replaces_the_weights_and_leaves_other_files(hub: Hub):
    pushed(0)
    old = hub.files(REPO)
    hub.repositories[REPO].commit(
        "main", {**old, "notes.txt": b"mine", "weights-best.safetensors": b""}
    )
    pushed(1)
    new = hub.files(REPO)
    assert weights_in(old) not in new
    assert {"notes.txt", "weights-best.safetensors"} <= set(new)
    assert torch.equal(cl.load(REPO).codebook.vectors, make(1).codebook.vectors)


def test_pushing_the_same_again_keeps_it_loadable(hub: Hub):
    pushed(0)
    pushed(0)
    assert torch.equal(cl.load(REPO).codebook.vectors, make(0).codebook.vectors)


def test_a_branch_is_made_and_loaded_by_name_and_by_commit(hub: Hub):
    pushed(0)
    pushed(1, revision="second/try")
    pushed(2, revision="second/try")
    commit = hub.repositories[REPO].branches["second/try"]
    for revision, seed in ((None, 0), ("main", 0), ("second/try", 2), (commit, 2)):
        expected = make(seed).codebook.vectors
        assert torch.equal(cl.load(REPO, revision=revision).codebook.vectors, expected)
    assert len([name for name in hub.files(REPO, "second/try") if name.startswith("weights")]) == 1
    assert b'revision="second/try"' in hub.files(REPO, "second/try")["README.md"]


def test_a_new_repository_can_be_private(hub: Hub):
    pushed(private=True)
    assert hub.repositories[REPO].private
    with pytest.raises(HubNotFoundError, match="no repository"):
        cl.load(REPO)
    assert cl.load(REPO, token=TOKEN).fitted


def test_a_name_without_a_user_is_the_users_own(hub: Hub):
    pushed(repo="mine")
    assert set(hub.repositories) == {"user/mine"}
    assert b'cl.load("user/mine")' in hub.files("user/mine")["README.md"]


# ---- what loading asks for ---------------------------------------------------------------------


def test_config_comes_first_and_then_the_weights_that_it_names(hub: Hub):
    pushed()
    name = weights_in(hub.files(REPO))
    extra = {"pytorch_model.bin": b"\x80\x04N.", "weights-0123456789ab.safetensors": b"other"}
    hub.repositories[REPO].commit("main", {**hub.files(REPO), **extra})
    cl.load(REPO)
    assert hub.fetched() == ["config.json", name]


def test_a_second_load_downloads_nothing(hub: Hub):
    pushed()
    cl.load(REPO)
    hub.requests.clear()
    cl.load(REPO)
    assert hub.requests == [("HEAD", f"/{REPO}/resolve/main/config.json")]  # is it still the same?
    hub.requests.clear()
    cl.load(REPO, revision=hub.repositories[REPO].branches["main"])
    assert hub.requests == []


def test_what_was_loaded_before_loads_without_the_network(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
):
    pushed()
    cl.load(REPO)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert cl.load(REPO).fitted
    assert hub.requests == []


def test_a_push_between_the_two_files_does_not_mix_them(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    pushed(0)
    from clvq_lens.quantizer import files

    read = files.read_config

    def read_while_somebody_pushes(path: Path) -> files.Saved:
        if len(hub.repositories[REPO].commits) == 2:
            pushed(1)
        return read(path)

    monkeypatch.setattr(files, "read_config", read_while_somebody_pushes)
    assert torch.equal(cl.load(REPO).codebook.vectors, make(0).codebook.vectors)


# ---- the token ---------------------------------------------------------------------------------


def test_the_token_is_written_nowhere(hub: Hub, tmp_path: Path):
    secret = "hf_secret0123456789"
    hub.tokens.add(secret)
    pushed(token=secret, private=True)
    load(REPO, token=secret)
    with pytest.raises(HubError) as error:
        load(REPO, revision="none", token=secret)
    everything = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    everything += [str(path).encode() for path in tmp_path.rglob("*")]
    everything += [*hub.bodies, *hub.files(REPO).values(), repr(hub.requests).encode()]
    everything += [repr(error.value).encode(), repr(error.value.__cause__).encode()]
    assert any(b"clvq_lens" in text for text in everything)
    assert not any(secret.encode() in text for text in everything)


# ---- refusing to load --------------------------------------------------------------------------


def test_a_foreign_repository_is_refused_after_its_config(hub: Hub):
    hub.add("user/gpt", {"config.json": b'{"model_type": "gpt2"}', "model.safetensors": b"x" * 99})
    with pytest.raises(FileFormatError, match=r"'user/gpt' holds no quantizer .* was not written"):
        cl.load("user/gpt")
    assert hub.fetched() == ["config.json"]


def test_a_repository_without_a_config_is_refused(hub: Hub):
    hub.add("user/notes", {"README.md": b"hello"})
    with pytest.raises(FileFormatError, match=r"'user/notes' has no config\.json\. Pass a repo"):
        cl.load("user/notes")
    assert hub.fetched() == []


def test_a_newer_format_is_refused_as_such(hub: Hub):
    pushed()
    edit(hub, lambda config: config.update(format_version=99))
    with pytest.raises(NewerFormatError, match=r"'user/tiny-0-1' holds no quantizer .* Upgrade it"):
        cl.load(REPO)
    assert hub.fetched() == ["config.json"]


@pytest.mark.parametrize("name", ["../../token", "/etc/passwd", "pytorch_model.bin", "README.md"])
def test_only_a_file_of_weights_is_fetched(hub: Hub, name: str):
    pushed()
    edit(hub, lambda config: config.update(weights=name))
    with pytest.raises(FileFormatError, match=r"expected one beside it, .* Do not trust it"):
        cl.load(REPO)
    assert hub.fetched() == ["config.json"]


def test_missing_weights_are_named(hub: Hub):
    pushed()
    files = dict(hub.files(REPO))
    name = weights_in(files)
    del files[name]
    hub.repositories[REPO].commit("main", files)
    with pytest.raises(FileFormatError, match=f"has no {re.escape(name)}"):
        cl.load(REPO)


def test_tampered_weights_are_refused(hub: Hub):
    pushed()
    files = dict(hub.files(REPO))
    name = weights_in(files)
    files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])
    hub.repositories[REPO].commit("main", files)
    message = r"is damaged: its SHA-256 is .* delete .*models--user--tiny-0-1 and load again"
    with pytest.raises(FileFormatError, match=message):
        cl.load(REPO)


def test_absurd_sizes_are_refused_without_building(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    pushed()
    edit(hub, lambda config: config["quantizer"].update(n_codes=10**12))

    def build(*args: object, **options: object) -> None:
        raise AssertionError("built")

    monkeypatch.setattr("clvq_lens.quantizer.saved.CrossLayerQuantizer", build)
    with pytest.raises(FileFormatError, match=r"n_codes is 1000000000000, was saved as 4"):
        cl.load(REPO)


def test_what_is_neither_folder_nor_repository_is_refused_without_asking(hub: Hub):
    for name in ("nowhere", "a/b/c", "./a/b", "/a/b", "user/a..b", "~/runs"):
        with pytest.raises(HubNotFoundError, match="is neither a folder nor the name of a repo"):
            cl.load(name)
    assert hub.requests == []


def test_a_path_is_never_looked_for_on_the_hub(hub: Hub):
    pushed()
    hub.requests.clear()
    with pytest.raises(FileNotFoundError, match=r"No config\.json in user"):
        cl.load(Path(REPO))
    assert hub.requests == []


def test_a_folder_here_comes_before_a_repository(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pushed(0)
    hub.requests.clear()
    monkeypatch.chdir(tmp_path)
    save(make(1), REPO)
    assert torch.equal(cl.load(REPO).codebook.vectors, make(1).codebook.vectors)
    with pytest.raises(ConfigError, match=r"revision is 'v1', but 'user/tiny-0-1' is a folder"):
        cl.load(REPO, revision="v1")
    assert hub.requests == []


def test_a_repository_that_does_not_exist_is_named_with_remedies(hub: Hub):
    message = rf"no folder 'user/none' here, and no repository 'user/none' on {hub.address} .*"
    with pytest.raises(FileNotFoundError, match=message + r"`hf auth login`, or pass token="):
        cl.load("user/none")
    with pytest.raises(HubError, match="no repository"):
        cl.load("user/none", token=TOKEN)


def test_a_gated_repository_says_where_to_ask(hub: Hub):
    pushed()
    hub.repositories[REPO].gated = True
    with pytest.raises(HubError, match=rf"Ask for access on {hub.address}/{REPO}, then"):
        cl.load(REPO)
    assert cl.load(REPO, token=TOKEN).fitted


def test_an_unknown_revision_is_named(hub: Hub):
    pushed()
    with pytest.raises(HubNotFoundError, match=r"has no revision 'v9'. Pass a branch, a tag or"):
        cl.load(REPO, revision="v9")


def test_offline_names_the_variable(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = r"HF_HUB_OFFLINE is set, so 'user/tiny-0-1' cannot be reached\. Unset it"
    with pytest.raises(HubError, match=message):
        cl.load(REPO)
    with pytest.raises(HubError, match=message):
        pushed()
    assert hub.requests == []


def test_a_hub_that_does_not_answer_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    point_at("http://127.0.0.1:9", monkeypatch)
    monkeypatch.setattr("huggingface_hub.file_download._ETAG_RETRY_TIMEOUT", 0.1)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with pytest.raises(HubError, match=r"not read 'user/.* on http://127.0.0.1:9 \(ConnectError"):
        cl.load(REPO)
    with pytest.raises(HubError, match=r"not write 'user/.* on http://127.0.0.1:9 \(ConnectError"):
        pushed()


# ---- refusing to push --------------------------------------------------------------------------


@pytest.mark.usefixtures("as_for_a_user")
def test_only_a_lens_is_pushed(hub: Hub):
    with pytest.raises(ConfigError, match=r"lens is of type CrossLayerQuantizer\. Pass what"):
        push_to_hub(make(), REPO, token=TOKEN)
    assert hub.requests == []


def test_an_unfitted_quantizer_is_not_pushed(hub: Hub):
    unfitted = CrossLayerQuantizer(CLVQConfig(n_codes=4, top_k=2), 4, 4)
    with pytest.raises(NotFittedError, match="has not been fitted"):
        push_to_hub(removed(unfitted), REPO, token=TOKEN)
    assert hub.requests == []


def test_pushing_without_a_token_asks_for_one(hub: Hub):
    with pytest.raises(HubError, match=r"`hf auth login`, or pass token=\.\.\., .* may write"):
        pushed(token=False)
    assert not hub.repositories


def test_a_read_only_token_is_refused_and_nothing_changes(hub: Hub):
    pushed(0)
    before = dict(hub.repositories[REPO].branches)
    with pytest.raises(HubError, match=r"`hf auth login`, or pass token"):
        pushed(1, token="hf_other")
    assert hub.repositories[REPO].branches == before


@pytest.mark.parametrize("repo", ["a/b/c", "user/a..b", "-", "user/two words"])
def test_an_impossible_name_is_refused(hub: Hub, repo: str):
    with pytest.raises(
        ConfigError, match=r"cannot be the name of a repository: .* Pass 'user/repo'"
    ):
        pushed(repo=repo)
    assert hub.requests == []


def test_a_model_is_not_overwritten(hub: Hub):
    hub.add("user/gpt", {"config.json": b'{"model_type": "gpt2"}', "README.md": b"hello"})
    before = hub.files("user/gpt")
    for revision in (None, "lens"):
        with pytest.raises(
            HubError, match=r"'user/gpt' holds a config\.json that clvq_lens did not"
        ):
            pushed(repo="user/gpt", revision=revision)
    assert hub.files("user/gpt") == before
    assert list(hub.repositories["user/gpt"].branches) == ["main"]


@pytest.mark.parametrize("private", [True, False])
def test_a_push_does_not_pretend_to_change_who_may_read(hub: Hub, private: bool):
    pushed(private=private)
    message = f"is {'private' if private else 'public'}; a push does not make it"
    with pytest.raises(HubError, match=message):
        pushed(1, private=not private)
    pushed(1, private=private)
    assert hub.repositories[REPO].private is private


def test_a_license_that_the_hub_does_not_know_is_refused(hub: Hub):
    hub.refuse_card = '"license" must be one of [mit, ...]'
    with pytest.raises(
        ConfigError, match=r'"license" must be one of .* Pass a license=\.\.\. that'
    ):
        pushed(license="my own")
    assert "config.json" not in hub.files(REPO)


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_other_errors_are_blamed_neither_on_the_card_nor_on_the_connection(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
):
    def fail(*args: object, **options: object) -> None:
        raise error("unforeseen")

    monkeypatch.setattr("huggingface_hub.HfApi.preupload_lfs_files", fail)
    with pytest.raises(error, match=r"^unforeseen$"):
        pushed()


def test_an_upload_that_fails_changes_nothing(hub: Hub):
    hub.refuse_objects = True
    with pytest.raises(HubError, match=r"not let you write 'user/tiny-0-1' \(403: No space left"):
        pushed()
    assert set(hub.files(REPO)) == {".gitattributes"}


def test_two_pushes_at_once_do_not_mix(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    pushed(0)

    before = hub.files(REPO)
    from clvq_lens.hub import push as module

    check = module._check_visibility

    def check_while_somebody_commits(*args: Any) -> None:
        check(*args)
        hub.repositories[REPO].commit("main", {**before, "other.txt": b""})

    monkeypatch.setattr(module, "_check_visibility", check_while_somebody_commits)
    with pytest.raises(HubError, match=r"\(412: A commit has happened since.*\): fix what it"):
        pushed(1)
    assert hub.files(REPO) == {**before, "other.txt": b""}
