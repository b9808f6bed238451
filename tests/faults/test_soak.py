"""Some minutes of killing; the long version is ``python -m benchmarks.soak``."""

import pytest

from benchmarks.soak import jobs, make_shared, soak, summary

# Another test kills one of two processes, and a fit with a table is a fit as any other.
ELSEWHERE = {"fit in two processes", "fit from texts, table"}
KILLED = [job for job in jobs(n_tokens=40_000) if job.name not in ELSEWHERE]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("soak") / "shared"
    make_shared(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("job", KILLED, ids=lambda job: job.name)
def test_work_that_is_killed_again_and_again_ends_with_the_same_bits(tmp_path, shared, job):
    (outcome, *_) = soak(minutes=0.0, every_s=None, folder=tmp_path, shared=shared, jobs=(job,))
    assert outcome.same, outcome.message
    assert outcome.n_killed
    assert outcome.job in summary([outcome])
