"""Ctrl-C and SIGTERM: a checkpoint, the command that goes on, and the weights of a whole run."""

import _signal
import json
import multiprocessing
import os
import shlex
import signal
import sys
import time

import pytest
from small_runs import fork_processes, read_weights, same, start_fork, write_data
from support import SMALL, TINY_CONFIG, run_train_net

from mask_rcnn_ext.engine import interruption, trainer

KEYS = ["SOLVER.IMS_PER_BATCH", "2", "SOLVER.CHECKPOINT_PERIOD", "100"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[str]:
    return write_data(tmp_path_factory.mktemp("data"), train=4, val=1)


def make_command(data, folder, iterations: int, *flags: str) -> list[str]:
    return [
        "--config-file", TINY_CONFIG, *data, *flags, *SMALL, *KEYS, "OUTPUT_DIR", str(folder),
        "SOLVER.MAX_ITER", str(iterations),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The final weights of a run of four iterations without an interruption."""
    out = tmp_path_factory.mktemp("whole")
    assert run_train_net(*make_command(data, out, 4)) == 0
    return read_weights(out / "model_final.pth")


@pytest.mark.parametrize(
    ("number", "code", "moment"),
    [(signal.SIGINT, 130, "step"), (signal.SIGTERM, 143, "evaluation")],
)
def test_a_run_that_is_stopped_goes_on_to_the_same_bits(
    data, whole, tmp_path, monkeypatch, capsys, number, code, moment
):
    command = make_command(data, tmp_path / "out", 4)
    monkeypatch.setattr(sys, "argv", ["train_net.py", *command])
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        if moment == "step":
            step = trainer.Trainer.run_step

            def run_step(self):
                if self.iter == 1:
                    signal.raise_signal(number)
                    signal.raise_signal(number)  # from the terminal, and from a parent process
                step(self)

            patch.setattr(trainer.Trainer, "run_step", run_step)
        else:  # at the end, when all iterations are done
            patch.setattr(trainer.Trainer, "test", lambda *_: signal.raise_signal(number))
        assert run_train_net(*command) == code
    assert signal.getsignal(number) is before
    saved = tmp_path / "out" / ("model_0000001.pth" if moment == "step" else "model_final.pth")
    *_, told = capsys.readouterr().err.splitlines()
    going_on = shlex.join(["python", "train_net.py", "--resume", *command])
    assert told == f"interrupted; {saved} is saved. To continue: {going_on}"
    assert not (tmp_path / "out/results.json").exists()
    assert run_train_net("--resume", *command) == 0
    assert same(read_weights(tmp_path / "out/model_final.pth"), whole)
    assert (tmp_path / "out/results.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_evaluation_that_is_stopped_says_so(data, tmp_path, monkeypatch, capsys, number):
    assert run_train_net(*make_command(data, tmp_path / "out", 1), "DATASETS.TEST", "()") == 0
    before = signal.getsignal(number)
    monkeypatch.setattr(trainer.Trainer, "test", lambda *_: signal.raise_signal(number))
    weights = ["MODEL.WEIGHTS", str(tmp_path / "out/model_final.pth")]
    command = make_command(data, tmp_path / "evaluated", 1, "--eval-only")
    assert run_train_net(*command, *weights) == 128 + number
    assert signal.getsignal(number) is before
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"
    assert not (tmp_path / "evaluated/results.json").exists()


def test_a_crash_in_the_last_iteration_leaves_no_results(data, tmp_path, monkeypatch):
    step = trainer.Trainer.run_step

    def run_step(self):
        if self.iter == 1:
            raise RuntimeError("a defect")
        step(self)

    monkeypatch.setattr(trainer.Trainer, "run_step", run_step)
    with pytest.raises(RuntimeError, match="a defect"):
        run_train_net(*make_command(data, tmp_path / "out", 2))
    assert not (tmp_path / "out/results.json").exists()
    assert not (tmp_path / "out/inference").exists()


@pytest.fixture
def python_handles_ctrl_c():
    """Python's own handler; a shell starts a background job with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_signal_ends_the_process(monkeypatch, python_handles_ctrl_c):
    monkeypatch.setattr(interruption, "_SAME", -1.0)
    signals = interruption.StopSignals()
    with signals.take_signals():
        signal.raise_signal(signal.SIGINT)
        assert signals.agree("cpu") == signal.SIGINT
        signal.signal(signal.SIGTERM, lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 0)]
)
@pytest.mark.parametrize(
    "block", [interruption.StopSignals().take_signals, interruption.raise_signals]
)
def test_a_forked_worker_ends_with_sigterm_and_outlives_ctrl_c(block, number, code):
    """detectron2 reads Cityscapes in a pool, which ends its workers with SIGTERM."""

    def work() -> None:
        os.kill(os.getpid(), number)
        time.sleep(0.01)

    with block():
        worker = multiprocessing.get_context("fork").Process(target=work)
        worker.start()
        worker.join(30)
    assert worker.exitcode == code


def test_a_worker_that_is_ended_before_its_first_step_ends():
    """So are the workers of a pool that has little to do, such as for a small Cityscapes."""
    workers = []
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # a worker waits for the core of its parent
    try:
        with interruption.StopSignals().take_signals():
            for _ in range(5):
                worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(99,))
                worker.start()
                worker.terminate()
                workers.append(worker)
            for worker in workers:
                worker.join(30)
        assert [worker.exitcode for worker in workers] == [-signal.SIGTERM] * 5
    finally:
        os.sched_setaffinity(0, cores)
        for worker in workers:
            worker.kill()


def test_two_processes_stop_together(data, tmp_path, monkeypatch, capfd):
    """SIGTERM to the process that has started them; the first one takes long to save."""
    fork_processes(monkeypatch)
    save = trainer.Checkpointer.save

    def save_slowly(*args, **kwargs):
        time.sleep(1.5)
        save(*args, **kwargs)

    monkeypatch.setattr(trainer.Checkpointer, "save", save_slowly)
    monkeypatch.setattr(interruption, "_SAME", 0.0)  # as if the step had taken long, too
    options = ["--num-gpus", "2", "--dist-url", "auto"]
    command = make_command(data, tmp_path / "out", 1000, *options)
    log = tmp_path / "out/log.txt"
    process = start_fork(lambda: run_train_net(*command))
    while process.is_alive() and not (log.exists() and "Starting training" in log.read_text()):
        time.sleep(0.05)
    process.terminate()
    process.join(240)
    errors = capfd.readouterr().err
    assert process.exitcode == 143, errors[-4000:]
    assert "Traceback" not in errors
    assert errors.count("interrupted; ") == 1
    name = (tmp_path / "out/last_checkpoint").read_text()
    last = json.loads((tmp_path / "out/metrics.json").read_text().splitlines()[-1])["iteration"]
    assert name == f"model_{last:07d}.pth"
    assert "Exception during training" not in log.read_text()


@pytest.mark.parametrize(
    ("script", "begin"),
    [("train_net.py", "python train_net.py"), ("mask-rcnn-ext train", "mask-rcnn-ext train")],
)
def test_the_command_that_goes_on_can_be_typed(monkeypatch, script, begin):
    monkeypatch.setattr(sys, "argv", [script, "--split", "0.8", "OUTPUT_DIR", "my run"])
    told = interruption.Interrupted(signal.SIGINT, "x.pth").describe()
    assert told.endswith(f"To continue: {begin} --resume --split 0.8 OUTPUT_DIR 'my run'")


def fork_profiled(profile) -> None:
    """Fork a process that ends at once; `profile` sees the calls of the hooks."""
    sys.setprofile(profile)
    child = os.fork()
    if not child:
        os._exit(0)
    sys.setprofile(None)
    os.waitpid(child, 0)


@pytest.mark.parametrize(
    ("event", "hook"),
    [
        ("call", "_block_before_fork"),
        ("call", "_unblock_in_parent"),
        ("return", "_unblock_in_parent"),
    ],
)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")  # Python 3.12
def test_a_signal_during_a_fork_is_not_lost(event, hook):
    """Python drops what a handler raises in a hook of a fork."""

    def send(frame, happens, argument):
        if (happens, frame.f_code.co_name) == (event, hook):
            sys.setprofile(None)
            signal.raise_signal(signal.SIGTERM)

    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def run() -> None:
        with interruption.raise_signals():
            fork_profiled(send)
            time.sleep(10)

    with pytest.raises(interruption.Interrupted):
        run()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


@pytest.mark.parametrize("number", [1, 2])
def test_a_handler_that_raises_in_a_fork_leaves_no_signal_blocked(monkeypatch, number):
    """A handler of the caller may raise; the second signal puts one back."""
    calls = []

    def fail(frame, happens, argument):
        if happens == "c_return" and argument is _signal.pthread_sigmask:
            calls.append(argument)
            if len(calls) == number:
                sys.setprofile(None)
                raise KeyboardInterrupt

    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: told.append(found.exc_type))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    fork_profiled(None)  # outside: it blocks no signals
    with interruption.raise_signals():
        fork_profiled(fail)
        after = signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert told == [KeyboardInterrupt]
    assert after == before


def test_a_program_that_a_forked_worker_starts_takes_ctrl_c():
    program = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    with interruption.raise_signals():
        child = os.fork()
        if not child:
            os.execv(sys.executable, [sys.executable, "-c", f"{program}; os._exit(0)"])
        status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) == -signal.SIGINT
