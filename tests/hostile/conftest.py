"""A trial for each test, Hypothesis' profiles, and how many cases ended how."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import huggingface_hub
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

from tests.hostile.subjects import Subject, subject_of
from tests.hostile.trial import WHOLE, Trial
from tests.hosts import KINDS, Kind

# A trial goes on after a failure, so there is nothing to shrink.
_ALWAYS: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "phases": (Phase.explicit, Phase.generate),
    "suppress_health_check": list(HealthCheck),
}
settings.register_profile("hostile-ci", max_examples=12, **_ALWAYS)
settings.register_profile("hostile-whole", max_examples=60, **_ALWAYS)
PROFILE = settings.get_profile("hostile-whole" if WHOLE else "hostile-ci")

_ENDINGS = "hostile endings"
_IN_CI = ("bridge-gpt2", "bridge-bert")
_CHOSEN = (*_IN_CI, "hooked-gpt2", "hooked-llama", "hooked-encoder", "bridge-llama")
HOSTS = [kind for kind in KINDS if kind.name in (_CHOSEN if WHOLE else _IN_CI)]


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="package", autouse=True)
def _offline() -> Iterator[None]:
    """Names that no hub has are not looked up again and again where there is no network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="session", params=HOSTS, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Kinds of host that differ in what hostile input meets."""
    return request.param


@pytest.fixture
def subject(kind: Kind) -> Subject:
    """A model of that kind with a fitted lens, which no case may change."""
    return subject_of(kind)


@pytest.fixture
def trial(request: pytest.FixtureRequest) -> Trial:
    """Counts the cases of a test; fails it at the end if one ended badly."""
    trial = Trial()
    if "subject" in request.fixturenames:
        trial.watched = request.getfixturevalue("subject").assert_unchanged
    if "kind" in request.fixturenames:
        trial.turn, trial.n_turns = HOSTS.index(request.getfixturevalue("kind")), len(HOSTS)
    return trial


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    trial = getattr(item, "funcargs", {}).get("trial")
    if not isinstance(trial, Trial):
        return
    item.user_properties.append((_ENDINGS, dict(trial.endings)))
    if trial.failures and outcome.excinfo is None:  # type: ignore[attr-defined]
        outcome.force_exception(pytest.fail.Exception(trial.verdict(), pytrace=False))  # type: ignore[attr-defined]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line for each kind of input: cases, and how many ended how."""
    rooms: dict[str, Counter[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                endings = dict(report.user_properties).get(_ENDINGS, {})
                room = report.nodeid.split("::")[0].split("test_")[-1].removesuffix(".py")
                rooms.setdefault(room, Counter()).update(endings)
    rooms = {room: endings for room, endings in rooms.items() if endings}
    if not rooms:
        return
    terminalreporter.section("hostile cases")
    rooms["all"] = sum(rooms.values(), Counter())
    columns = ("fine", "ours", "foreign", "wrong", "hang")
    terminalreporter.line(f"{'':12}{'cases':>8}" + "".join(f"{name:>9}" for name in columns))
    for room, endings in rooms.items():
        counts = "".join(f"{endings[name]:9,}" for name in columns)
        terminalreporter.line(f"{room:12}{sum(endings.values()):8,}{counts}")
