"""Commands under torchrun: what one process does, several do together, and lose nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import clvq_lens as cl
from clvq_lens import errors
from clvq_lens.commands import together
from clvq_lens.commands.command_model import ModelChoice

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts", "9"]


def started(n: int, texts: Path, out: Path, checkpoint: Path) -> "subprocess.Popen[str]":
    """A fit on the toy world in as many processes."""
    options = "fit --model toy --source 1 --target 3 --n-codes 32 --n-tokens 60000 --decoder table"
    command = [*TORCHRUN, "--nproc-per-node", str(n), "-m", "clvq_lens", *options.split()]
    command += ["--data", str(texts), "--out", str(out), "--checkpoint", str(checkpoint)]
    command += ["--checkpoint-every", "0.3"]
    # In a file and not in a pipe, which would be full one day and stop the processes.
    with (out.parent / f"{out.name}.log").open("w") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, stdout=log, stderr=log, text=True, env=environment)


def workers_of(pid: int) -> list[int]:
    """The processes that torchrun has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return list(map(int, children))


def texts(folder: Path) -> Path:
    path = folder / "texts.txt"
    path.write_text("\n".join(cl.toy.generate(800, seed=3)))
    return path


def assert_same_bits(one: Path, other: Path) -> None:
    theirs = cl.load(other).state_dict()
    for name, tensor in cl.load(one).state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_lost_worker_costs_no_bit_under_torchrun(tmp_path):
    data = texts(tmp_path)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert started(2, data, undisturbed, tmp_path / "c1").wait() == 0
    run = started(2, data, killed, tmp_path / "c2")
    n_killed, seen, end = 0, 0, time.monotonic() + 300
    while run.poll() is None and n_killed < 2 and time.monotonic() < end:
        time.sleep(0.2)
        numbers = [int(path.name[11:19]) for path in (tmp_path / "c2").glob("checkpoint-*")]
        if max(numbers, default=0) > seen:
            seen = max(numbers)
            os.kill(workers_of(run.pid)[n_killed % 2], signal.SIGKILL)
            n_killed += 1
    assert run.wait(timeout=300) == 0, (tmp_path / "killed.log").read_text()[-3000:]
    assert n_killed == 2  # one of each
    assert_same_bits(undisturbed, killed)
    evaluated = (undisturbed / "evaluation.csv").read_text()
    assert evaluated == (killed / "evaluation.csv").read_text()


def test_without_torchrun_a_process_is_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")  # that of a job whose processes know nothing of others
    assert not together.started_together()
    assert together.device_of_process("cuda:1") == "cuda:1"
    with together.joined() as processes:
        assert processes.size == 1


@pytest.mark.parametrize(("n_machines", "rank", "warned"), [(1, 0, 0), (2, 0, 1), (2, 1, 0)])
def test_machines_that_would_not_meet_again_are_warned(
    monkeypatch, caplog, n_machines: int, rank: int, warned: int
):
    monkeypatch.setenv("GROUP_WORLD_SIZE", str(n_machines))
    together._warn_of_restarts(rank)
    assert caplog.text.count("Set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1") == warned


def test_a_gpu_for_all_processes_is_refused(monkeypatch):
    for name, value in {
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "TORCHELASTIC_RESTART_COUNT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    assert together.were_restarted()
    with pytest.raises(errors.ConfigError, match=r"cuda:0 is one GPU for all.*Pass --device cuda"):
        together.device_of_process("cuda:0")
    assert together.device_of_process("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert together.device_of_process("cuda") == "cuda:1"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(errors.ConfigError, match=r"Process 1 .* there are 1. Start as many"):
        together.device_of_process("cuda")
    with pytest.raises(errors.ConfigError, match=r"--device-map spreads .* Leave it out"):
        ModelChoice(name="toy", device_map="auto").of_process()
