"""Starts the processes of a command: one, `--num-gpus N`, several machines, `torchrun`, Slurm."""

import contextlib
import functools
import io
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

from ..errors import UserError
from .interruption import Interrupted, forward_signals
from .process_group import explain_failure, join_torchrun, run_in_group
from .run_lock import release_folders
from .slurm import is_submission, submit

__all__ = ["launch", "run_as_command"]


def launch(main: Callable[[Any], Any], args: Any) -> Any:
    """Run `main(args)` in as many processes as `args` or `torchrun` asks for.

    Without a GPU, `--num-gpus` is the number of processes on the CPU, which communicate through
    gloo.

    Args:
        main: a function that new processes can import, so one that a module defines.
        args: the arguments, parsed by `argument_parser`; `launch` reads `num_gpus`,
            `num_machines`, `machine_rank` and `dist_url`; with `slurm`, also `opts`.

    Returns:
        The result of `main` if it ran in this process, else None.

    Raises:
        UserError: `--num-gpus` contradicts `torchrun`, is less than 1, or is more than the number
            of GPUs of this machine; or see `engine.slurm.submit`.
    """
    if is_submission(args):
        _submit(main, args)
        return None
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return _join_torchrun(main, args)
    gpus = torch.cuda.device_count()
    if gpus and args.num_gpus > gpus:
        raise UserError(f"--num-gpus {args.num_gpus}: this machine has {gpus}")
    if args.num_gpus < 1:
        raise UserError(
            f"--num-gpus {args.num_gpus}: expected 1 or more. To train without a GPU, leave it out "
            "(on a machine that has one, add MODEL.DEVICE cpu)"
        )
    if args.num_gpus * args.num_machines == 1:
        return _run(main, args)
    # PyTorch would warn that it ends the other processes when one has failed.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    with forward_signals():
        return detectron2_launch(
            _process,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(main, args),
        )


def _submit(main: Callable[[Any], Any], args: Any) -> None:
    """Submit a training to Slurm: a task for each GPU, or for each process on a CPU."""
    given = dict(zip(args.opts[::2], args.opts[1::2], strict=False))
    if "OUTPUT_DIR" not in given:
        raise UserError("--slurm needs OUTPUT_DIR DIR on the command line, which all nodes see")
    submit(
        functools.partial(_launch_submitted, main),
        args,
        given["OUTPUT_DIR"],
        job_name="mask_rcnn_ext",
        nodes=args.num_machines,
        ntasks_per_node=args.num_gpus,
        gpus_per_node=0 if given.get("MODEL.DEVICE") == "cpu" else args.num_gpus,
    )


def _launch_submitted(main: Callable[[Any], Any], args: Any) -> int:
    return run_as_command(lambda: launch(main, args))


def _run(main: Callable[[Any], Any], args: Any) -> Any:
    """Run `main`, and release the folder that it has written to."""
    try:
        result = run_in_group(main, args)
    except BaseException:
        release_folders(failed=True)
        raise
    release_folders()
    return result


def _process(main: Callable[[Any], Any], args: Any) -> None:
    """Run `main` in a process that `launch` started; a `UserError` ends it with exit code 2."""
    if not torch.cuda.is_available():
        # By default each process starts as many threads as there are cores, and the threads of the
        # processes then wait for each other.
        torch.set_num_threads(max(1, torch.get_num_threads() // args.num_gpus))
    code = run_as_command(lambda: _run(main, args))
    if code:
        sys.exit(code)


def _join_torchrun(main: Callable[[Any], Any], args: Any) -> Any:
    world, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if args.num_gpus not in (1, local) or args.num_machines not in (1, world // local):
        raise UserError(
            f"torchrun started {local} process(es) on each of {world // local} machine(s); "
            "leave out --num-gpus and --num-machines"
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    join_torchrun("nccl" if torch.cuda.is_available() else "gloo")
    comm.create_local_process_group(local)
    comm.synchronize()
    try:
        return _run(main, args)
    finally:
        dist.destroy_process_group()


def _wait_for_first_process() -> None:
    """Wait for the end of the first process, which ends the others; at most 10 seconds."""
    with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C
        time.sleep(10)


def _drop_closed_output() -> bool:
    """Send the output nowhere if nobody reads it any more, as after `| head`; return whether so."""
    output = sys.stdout.fileno()
    poll = select.poll()
    poll.register(output, 0)  # errors only
    if closed := bool(poll.poll(0)):
        _drop_output()
    return closed


def _drop_output() -> None:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _flush_output() -> str:
    """Write what was printed; return what hinders it, as on a full disk, or ""."""
    try:
        print(end="", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop_output()  # at its end, Python writes again
        return (
            f"the command is done, but its output (stdout) cannot be written: {error.strerror}. "
            "Send it elsewhere"
        )
    return ""


def _prepare_output() -> None:
    """Let everything be printed, wherever the output goes.

    It goes nowhere if the caller has closed it, as `>&-` does. A slow reader is waited for, also
    if the caller has made the output non-blocking, with which a `print` would fail. Names of files
    may have bytes or letters that the encoding of a terminal has not; they become plain letters.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        with contextlib.suppress(OSError, ValueError):  # a stream without a file
            os.set_blocking(getattr(sys, name).fileno(), True)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def run_as_command(command: Callable[[], Any]) -> int:
    """Run the body of a command-line script and return the exit code of the script.

    An exception that is not listed here is a defect and is raised.

    Args:
        command: the body. If it returns an int, this is the exit code, else 0.

    Returns:
        - 2 after a `UserError`, after a disk or the memory was full, or after a process that loaded
          images has died, also if this ended a process that `launch` started. One line is printed.
        - 130 after Ctrl-C, and 143 after SIGTERM during training or evaluation. The command
          that resumes a training is printed.
        - 1 after the system has killed a process of `launch`, which is named, or after a process on
          another machine has ended; or, without a line, if nobody reads the output any more.
    """
    _prepare_output()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see `let_ctrl_c_end`
        with contextlib.suppress(ValueError):  # in another thread than the main one
            signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = command()
        if hindered := _flush_output():
            print(f"error: {hindered}", file=sys.stderr)
            return 2
    except BrokenPipeError:
        if not _drop_closed_output():
            raise
        return 1
    except (UserError, OSError, RuntimeError, MemoryError) as error:
        told = explain_failure(error)
        if told is None:
            raise
        # Under torchrun the process group is gone by now; the variable is still there.
        if int(os.environ.get("RANK", comm.get_rank())) > 0:
            # Every process finds a mistake in the config, but one message is enough. When the
            # first process ends, the others are stopped while they wait here. A mistake that only
            # this process finds is printed after the wait.
            _wait_for_first_process()
        print(f"error: {told}", file=sys.stderr)
        return 2
    except ProcessExitedException as error:
        if error.exit_code in (1, 2, 130, 143):  # the process has said why
            return error.exit_code
        if -error.exit_code in (signal.SIGINT, signal.SIGTERM):  # it came before training began
            return 128 - error.exit_code
        if error.exit_code == -signal.SIGKILL:
            print(
                f"error: process {error.error_index} was killed (SIGKILL), usually because the "
                "memory was full. Lower SOLVER.IMS_PER_BATCH or DATALOADER.NUM_WORKERS, and "
                "continue from the last checkpoint with --resume",
                file=sys.stderr,
            )
            return 1
        raise
    except KeyboardInterrupt as error:
        interrupted = error if isinstance(error, Interrupted) else Interrupted(signal.SIGINT)
        if int(os.environ.get("RANK", comm.get_rank())) > 0:
            _wait_for_first_process()  # the end of this process would end it before it prints
        else:
            print(interrupted.describe(), file=sys.stderr)
        return interrupted.exit_code
    return code if isinstance(code, int) else 0
