"""Ends all processes of a run when one of them fails, with one error message.

The processes share a store of keys, through which they found each other. The first process that
fails leaves a mark there and prints the cause. The others fail with the same mistake or lose the
connection, see the mark and print nothing.
"""

import contextlib
import errno
import os
import re
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from detectron2.utils import comm
from torch.distributed.rendezvous import rendezvous

from ..data.bad_images import explain_dead_worker
from ..errors import UserError, explain_path_error, shorten
from ..files import explain_failed_write

__all__ = ["explain_failure", "is_lost_connection", "join_torchrun", "run_in_group"]

_MARK = "mask_rcnn_ext/failed"
_DONE = "mask_rcnn_ext/done"
# How gloo, NCCL and the store say that another process has gone.
_LOST = re.compile(
    r"Connection (closed|reset|refused)|Broken pipe|remote process exited|Failed to recv"
)
# What Python, PyTorch and the system say when the memory of a CPU or a GPU is full.
_FULL_MEMORY = re.compile(
    r"(?i)out of memory|(can't|cannot) allocate memory|not enough memory|unable to allocate|"
    r"status_alloc_failed"
)
_STARTED = 1800  # seconds in which the other processes must have started, as gloo's own limit
_LAST = 60.0  # seconds that process 0 waits for the end of the others
_PATIENCE = 3.0  # seconds in which `launch` sees that another process has ended
_MOMENT = 0.5  # seconds in which processes that find the same mistake look at the store


def explain_failure(error: BaseException) -> str | None:
    """Return the message of an error that is no defect of the code, else None."""
    if isinstance(error, UserError):
        return str(error)
    explained = explain_dead_worker(error) or explain_failed_write(error)
    if explained is not None:
        return str(explained)
    return explain_path_error(error) or _explain_full_memory(error)


def _explain_full_memory(error: BaseException) -> str | None:
    lines = [line for line in str(error).splitlines() if _FULL_MEMORY.search(line)]
    known = isinstance(error, RuntimeError) or getattr(error, "errno", None) == errno.ENOMEM
    if not (isinstance(error, MemoryError) or (known and lines)):
        return None
    return (
        f"the memory is full{f' ({shorten(lines[-1].strip(), 200)})' if lines else ''}. For "
        "training, lower SOLVER.IMS_PER_BATCH, INPUT.MIN_SIZE_TRAIN or DATALOADER.NUM_WORKERS; for "
        "prediction and evaluation, lower INPUT.MIN_SIZE_TEST or the number of images in a batch; "
        "for other commands, use smaller images, fewer objects or a machine with more memory"
    )


def join_torchrun(backend: str) -> None:
    """Join the processes that `torchrun` has started, also when it has started them again.

    Some versions of PyTorch keep the store of an attempt that failed. It has the addresses of dead
    processes, and gloo would wait for them for ever. So each attempt gets names of its own.

    Args:
        backend: "gloo" or "nccl".
    """
    store, rank, world_size = next(rendezvous("env://"))
    attempt = _agree_on_attempt(store, rank, world_size)
    store = dist.PrefixStore(f"mask_rcnn_ext/{attempt}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)


def _agree_on_attempt(store: Any, rank: int, world_size: int) -> str:
    """Return a name that only the living processes know, whatever is left in the store.

    Each process asks with a word of its own, and process 0 answers until all have got the name.
    """
    begin = "mask_rcnn_ext/attempt"
    if rank > 0:
        word = uuid.uuid4().hex
        store.set(f"{begin}/ask/{rank}", word)
        attempt = str(store.get(f"{begin}/answer/{word}"), "ascii")
        store.set(f"{begin}/{attempt}/heard/{rank}", "")
        return attempt
    attempt, waiting = uuid.uuid4().hex, set(range(1, world_size))
    until = time.monotonic() + _STARTED
    while waiting and time.monotonic() < until:
        for other in list(waiting):
            if store.check([f"{begin}/{attempt}/heard/{other}"]):
                waiting.remove(other)
            elif store.check([f"{begin}/ask/{other}"]):
                word = str(store.get(f"{begin}/ask/{other}"), "ascii")
                store.set(f"{begin}/answer/{word}", attempt)
        time.sleep(0.02)
    if waiting:
        raise UserError(
            f"process(es) {', '.join(map(str, sorted(waiting)))} of {world_size} did not start in "
            f"{_STARTED} seconds. Is torchrun running on every machine?"
        )
    return attempt


def run_in_group(main: Callable[[Any], Any], args: Any) -> Any:
    """Return `main(args)` in one of several processes; only the first that fails prints an error.

    Raises:
        SystemExit: 2, after a mistake that this process or another one has reported; 1, after
            another process has ended.
    """
    try:
        result = main(args)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            _wait_for_others()
        return result
    except Exception as error:
        if comm.get_world_size() == 1:
            raise
        if message := explain_failure(error):
            if _mark_failure():
                print(f"error: {message}", file=sys.stderr, flush=True)
                time.sleep(_MOMENT)  # process 0 keeps the store, where others may look now
            raise SystemExit(2) from error
        if not is_lost_connection(error):
            _mark_failure()
            raise  # a defect
        if _is_launched_here():
            time.sleep(_PATIENCE)  # `launch` says which process has ended, and ends this one
        if _mark_failure():
            print(
                "error: the connection to another process of this run is lost. It has ended "
                "without a message, or its machine cannot be reached; often the memory was full, "
                "and the system has killed it. A training continues from its last checkpoint with "
                "--resume",
                file=sys.stderr,
                flush=True,
            )
        raise SystemExit(1) from error


def _wait_for_others() -> None:
    """Let process 0 end last: if another process fails at its end, `torchrun` restarts all of them.

    The restart then still finds the mark of process 0 that the run has begun.
    """
    store, until = _get_store(), time.monotonic() + _LAST
    keys = [f"{_DONE}/{rank}" for rank in range(comm.get_world_size())]
    with contextlib.suppress(RuntimeError):  # process 0 kept the store, and has waited long enough
        store.set(keys[comm.get_rank()], "")
        while comm.get_rank() == 0 and not store.check(keys) and time.monotonic() < until:
            time.sleep(0.02)


def is_lost_connection(error: BaseException) -> bool:
    """Return whether an error says that another process of several has gone."""
    several = comm.get_world_size() > 1
    return several and isinstance(error, RuntimeError) and bool(_LOST.search(str(error)))


def _is_launched_here() -> bool:
    """Return whether `launch` has started all processes, on one machine."""
    here = comm.get_local_size() == comm.get_world_size()
    return here and "TORCHELASTIC_RUN_ID" not in os.environ


def _mark_failure() -> bool:
    """Leave the mark; return whether this process is the first, which prints the cause."""
    try:
        return int(_get_store().add(_MARK, 1)) == 1
    except Exception:  # process 0, which keeps the store, has ended: nobody knows who is first
        return not comm.get_local_rank()  # one on each machine


def _get_store() -> Any:
    return dist.distributed_c10d._get_default_store()
