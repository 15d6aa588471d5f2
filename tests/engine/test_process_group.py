"""One process of several fails: one sentence, and the exit codes of the others."""

import errno
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from small_runs import read_error
from torch.multiprocessing import ProcessExitedException

from mask_rcnn_ext import UserError, run_as_command
from mask_rcnn_ext.engine import interruption, launch, process_group

# As gloo and the store of keys say it.
LOST = [
    "[/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:2451.",
    "[/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:914: Connection reset by peer.",
    "Failed to recv, got 0 bytes. Connection was likely closed.",
]


@pytest.fixture
def group(monkeypatch):
    """Let this process be one of two that share a store; `rank` and `launched` can be set."""
    store, state = dist.HashStore(), SimpleNamespace(rank=0, launched=False)
    monkeypatch.setattr(process_group, "_get_store", lambda: store)
    monkeypatch.setattr(process_group, "_is_launched_here", lambda: state.launched)
    monkeypatch.setattr(process_group, "_PATIENCE", 0.0)
    monkeypatch.setattr(process_group, "_MOMENT", 0.0)
    monkeypatch.setattr(process_group.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(process_group.comm, "get_rank", lambda: state.rank)
    return state


def end(error: Exception) -> int:
    """Return the exit code of a process whose `main` raises an error."""

    def main(args):
        raise error

    with pytest.raises(SystemExit) as raised:
        process_group.run_in_group(main, None)
    return raised.value.code


@pytest.mark.parametrize(
    "error", [UserError("a bad image"), OSError(errno.ENOSPC, "No space left on device")]
)
@pytest.mark.parametrize("lost", LOST)
def test_the_first_one_tells_and_the_others_end_silently(group, capsys, error, lost):
    group.rank = 1
    assert end(error) == 2
    assert read_error(capsys).startswith("error: ")
    group.rank = 0
    assert end(error) == 2  # has made the same mistake
    assert end(RuntimeError(lost)) == 1
    assert capsys.readouterr().err == ""


def test_a_process_that_was_killed_is_told_once(group, capsys):
    assert end(RuntimeError(LOST[0])) == 1
    assert "the connection to another process of this run is lost" in read_error(capsys)
    assert end(RuntimeError(LOST[0])) == 1
    assert capsys.readouterr().err == ""


def test_the_command_tells_which_of_its_processes_was_killed(group, monkeypatch, capsys):
    group.launched = True

    def wait(seconds):
        raise SystemExit(15)  # `launch` ends this process, which has said nothing yet

    with monkeypatch.context() as patch:
        patch.setattr(process_group.time, "sleep", wait)
        assert end(RuntimeError(LOST[0])) == 15
    assert capsys.readouterr().err == ""
    assert run_as_command(lambda: raise_exit(-signal.SIGKILL)) == 1
    assert "error: process 1 was killed (SIGKILL)" in read_error(capsys)
    assert end(RuntimeError(LOST[0])) == 1  # nobody has ended it
    assert "the connection to another process of this run is lost" in read_error(capsys)


def raise_exit(code: int):
    """Raise what `launch` does when a process has ended with an exit code."""
    raise ProcessExitedException("process 1 ...", error_index=1, error_pid=1, exit_code=code)


def test_on_another_machine_the_command_ends_without_a_traceback(group, capsys):
    """`--num-machines 2`: the processes of this machine have told it, see below."""
    assert run_as_command(lambda: raise_exit(1)) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("local_rank", [0, 1])
def test_where_process_0_has_ended_one_process_of_each_machine_tells(
    group, monkeypatch, capsys, local_rank
):
    class Gone:
        def add(self, *_):
            raise RuntimeError("Connection reset by peer")

    monkeypatch.setattr(process_group, "_get_store", Gone)
    monkeypatch.setattr(process_group.comm, "get_local_rank", lambda: local_rank)
    group.rank = 2 + local_rank
    assert end(RuntimeError(LOST[0])) == 1
    assert ("is lost" in capsys.readouterr().err) == (local_rank == 0)


def test_a_defect_is_raised_and_the_others_end_silently(group, capsys):
    def main(args):
        raise RuntimeError("The size of tensor a must match")

    with pytest.raises(RuntimeError, match="size of tensor"):
        process_group.run_in_group(main, None)
    assert end(RuntimeError(LOST[0])) == 1
    assert capsys.readouterr().err == ""


def test_sigterm_to_one_process_promises_no_checkpoint(group, monkeypatch, capfd):
    """It may be the way in which `launch` ends a process after another one has failed."""
    monkeypatch.setattr(interruption.comm, "is_main_process", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, op: None)
    signals = interruption.StopSignals()
    with signals.take_signals():
        signal.raise_signal(signal.SIGTERM)
        assert capfd.readouterr().err == ""
        assert signals.agree("cpu") == signal.SIGTERM
    assert "a checkpoint is saved first" in capfd.readouterr().err


def test_the_first_process_ends_last_under_torchrun(group, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    monkeypatch.setattr(process_group, "_LAST", 0.1)
    start = time.monotonic()
    assert process_group.run_in_group(lambda args: args, 7) == 7
    assert time.monotonic() - start > 0.1  # the other one has not ended
    group.rank = 1
    assert process_group.run_in_group(lambda args: args, 7) == 7
    group.rank = 0
    monkeypatch.setattr(process_group, "_LAST", 1000.0)
    assert process_group.run_in_group(lambda args: args, 7) == 7


def test_a_store_that_has_gone_with_process_0_does_not_spoil_a_success(group, monkeypatch):
    class Gone:
        def set(self, *_):
            raise dist.DistNetworkError("Connection reset by peer")

    monkeypatch.setattr(process_group, "_get_store", Gone)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    group.rank = 1
    assert process_group.run_in_group(lambda args: args, 7) == 7


def test_each_attempt_has_a_name_of_its_own_in_a_store_that_is_kept():
    store, found = dist.HashStore(), []
    for _ in range(2):  # the second one finds what the first has left
        with ThreadPoolExecutor(3) as pool:
            ranks = [pool.submit(process_group._agree_on_attempt, store, r, 3) for r in (1, 2, 0)]
            names = {rank.result(timeout=30) for rank in ranks}
        assert len(names) == 1
        found += names
    assert len(set(found)) == 2


def test_a_process_that_does_not_start_is_named(monkeypatch):
    monkeypatch.setattr(process_group, "_STARTED", 0.1)
    with pytest.raises(UserError, match=r"process\(es\) 1, 2 of 3 did not start"):
        process_group._agree_on_attempt(dist.HashStore(), 0, 3)


def test_a_second_ctrl_c_is_no_traceback(monkeypatch, capsys):
    """Such a process waits for the first one; see `launch._wait_for_first_process`."""
    monkeypatch.setenv("RANK", "1")
    waited = []

    def interrupt(seconds=0):
        waited.append(seconds)
        raise KeyboardInterrupt

    monkeypatch.setattr(launch.time, "sleep", interrupt)
    assert run_as_command(interrupt) == 130
    assert waited == [0, 10]
    assert capsys.readouterr().err == ""


def fill_memory() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def fork() -> None:
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


def load() -> None:
    raise RuntimeError("Caught RuntimeError in DataLoader worker process 0.\n  CUDA out of memory.")


@pytest.mark.parametrize("fail", [fill_memory, lambda: [0] * (1 << 60), fork, load])
def test_a_full_memory_is_one_line_and_another_error_is_raised(fail, capsys):
    assert run_as_command(fail) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the memory is full")
    assert "lower SOLVER.IMS_PER_BATCH, INPUT.MIN_SIZE_TRAIN" in line
    assert "for other commands, use smaller images" in line
    with pytest.raises(RuntimeError, match="size of tensor"):
        run_as_command(lambda: torch.ones(2) + torch.ones(3))
