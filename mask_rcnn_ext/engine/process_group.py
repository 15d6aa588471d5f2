"""One of several processes fails: it says why, and the others end without a word of their own.

The processes share a store of keys, through which they found each other. The first one that fails
leaves a mark there and tells the cause. The others, which have made the same mistake or lose the
connection, see the mark and end silently.
"""

import os
import re
import sys
import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from detectron2.utils import comm

from ..errors import UserError
from ..files import explain_failed_write

__all__ = ["explain_failure", "run_in_group"]

_MARK = "mask_rcnn_ext/failed"
# How gloo, NCCL and the store say that another process has gone.
_LOST = re.compile(
    r"Connection (closed|reset|refused)|Broken pipe|remote process exited|Failed to recv"
)
_PATIENCE = 3.0  # seconds in which `launch` sees that another process has ended
_MOMENT = 0.5  # seconds in which processes that find the same mistake look at the store


def explain_failure(error: BaseException) -> str | None:
    """Return the sentence of an error that is no defect of the code: else None."""
    if isinstance(error, UserError):
        return str(error)
    explained = explain_failed_write(error)
    return None if explained is None else str(explained)


def run_in_group(main: Callable[[Any], Any], args: Any) -> Any:
    """Return `main(args)` in one of several processes, of which one is the first to fail.

    Raises:
        SystemExit: 2, after a mistake that this process or another one has told; 1, after another
            process has ended.
    """
    try:
        return main(args)
    except Exception as error:
        if comm.get_world_size() == 1:
            raise
        if told := explain_failure(error):
            if _mark_failure():
                print(f"error: {told}", file=sys.stderr, flush=True)
                time.sleep(_MOMENT)  # process 0 keeps the store, where others may look now
            raise SystemExit(2) from error
        if not (isinstance(error, RuntimeError) and _LOST.search(str(error))):
            _mark_failure()
            raise  # a defect
        if _is_launched_here():  # `launch` sees which process has ended, and tells it
            time.sleep(_PATIENCE)
        elif _mark_failure():
            print(
                "error: the connection to another process of this training is lost. It has ended "
                "without a message, or its machine cannot be reached; often the memory was full, "
                "and the system has killed it. Go on from the last checkpoint with --resume",
                file=sys.stderr,
                flush=True,
            )
        raise SystemExit(1) from error


def _is_launched_here() -> bool:
    """Return whether `launch` has started all processes, on one machine."""
    return "TORCHELASTIC_RUN_ID" not in os.environ and comm.get_local_size() == (
        comm.get_world_size()
    )


def _mark_failure() -> bool:
    """Leave the mark; return whether this process is the first, or cannot know it."""
    try:
        return int(_get_store().add(_MARK, 1)) == 1
    except Exception:  # the process that keeps the store has ended
        return not comm.get_rank()


def _get_store() -> Any:
    return dist.distributed_c10d._get_default_store()
