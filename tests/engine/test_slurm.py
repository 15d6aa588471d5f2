"""`--slurm`: what is submitted, and what a task of the job does. sbatch and srun are stand-ins."""

import contextlib
import os
import signal
import sys
import time

import predict as predict_tool  # tools/ is on the path
import pytest

from mask_rcnn_ext import UserError, argument_parser, launch
from mask_rcnn_ext.engine import interruption, slurm
from mask_rcnn_ext.engine.interruption import Interrupted, raise_signals

TASK = {
    "SUBMITIT_EXECUTOR": "slurm",
    "SLURM_JOB_ID": "77",
    "SLURM_NTASKS": "4",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_NODELIST": "node[07-08]",
}
TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node07",
    "TORCHELASTIC_RUN_ID": "77",
}


def parse(*arguments):
    return argument_parser().parse_args(["--slurm", *arguments])


def train(args):
    """Stand for a training."""


def end_task(command) -> int:
    """Run a task of a job whose command ends it; return the exit code."""
    with pytest.raises(SystemExit) as end:
        slurm.SubmittedCommand(command, parse(), "out")()
    return end.value.code


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Put sbatch and srun on the path; return the file that receives the batch script."""
    pytest.importorskip("submitit", reason='needs the package submitit: pip install "submitit"')
    programs = tmp_path / "bin"
    programs.mkdir()
    batch = tmp_path / "batch.sh"
    lines = {"sbatch": f'cp "$1" "{batch}"; echo Submitted batch job 77', "srun": "exit 1"}
    for name, line in lines.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return batch


@pytest.fixture
def enter_task(monkeypatch):
    """Return a function that sets the variables of a task; they are restored after the test."""
    for name in (*TASK, *TORCHRUN, "MASTER_PORT", "SLURM_RESTART_COUNT", slurm._INSIDE):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def enter(**more):
        for name, value in {**TASK, **more}.items():
            monkeypatch.setenv(name, value)

    return enter


def test_a_training_is_submitted_with_a_task_for_each_gpu(cluster, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--slurm-options", "time=60 partition=gpu cpus_per_task=6 mem=64GB"]
    args = parse(*options, "--num-machines", "2", "--num-gpus", "8", "OUTPUT_DIR", str(out))
    assert launch(train, args) is None
    assert capsys.readouterr().out == f"submitted: job 77; its output: {out}/slurm/77_0_log.out\n"
    lines = cluster.read_text().splitlines()
    wanted = ["time=60", "partition=gpu", "cpus-per-task=6", "mem=64GB", "nodes=2"]
    wanted += ["ntasks-per-node=8", "gpus-per-node=8", "job-name=mask_rcnn_ext"]
    assert {f"#SBATCH --{option}" for option in wanted} <= set(lines)
    assert (out / "slurm" / "77_submitted.pkl").is_file()


def test_on_a_cpu_no_gpu_is_asked_for(cluster, tmp_path):
    keys = ["OUTPUT_DIR", str(tmp_path / "out"), "MODEL.DEVICE", "cpu"]
    launch(train, parse("--slurm-options", "time=60", *keys))
    assert "gpus" not in cluster.read_text()


def test_a_prediction_is_submitted(cluster, tmp_path):
    options = "time=60 nodes=2 ntasks_per_node=4"
    arguments = ["model.pth", "photos", "--output", str(tmp_path / "out"), "--slurm"]
    assert predict_tool.main([*arguments, "--slurm-options", options]) == 0
    assert "#SBATCH --ntasks-per-node=4" in cluster.read_text().splitlines()


@pytest.mark.parametrize(
    ("restarts", "checkpoint", "resumed"),
    [("", None, False), ("0", "last_checkpoint", False), ("1", None, False),
     ("1", "last_checkpoint", True), ("2", "rpn/last_checkpoint", True),
     ("1", "earlier_runs/1/last_checkpoint", False)],
)  # fmt: skip
def test_a_task_is_a_process_of_torchrun_and_a_restart_resumes(
    cluster, enter_task, tmp_path, restarts, checkpoint, resumed
):
    seen = []

    def function(args):
        seen.append((args.resume, {name: os.environ[name] for name in TORCHRUN}))
        return 3 * slurm.is_submission(args)

    job = slurm.SubmittedCommand(function, parse(), str(tmp_path))
    if checkpoint:
        (tmp_path / checkpoint).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / checkpoint).write_text("model_0000009.pth")
    enter_task(**({"SLURM_RESTART_COUNT": restarts} if restarts else {}))
    job()
    assert seen == [(resumed, TORCHRUN)]


@pytest.mark.parametrize("place", ["last_checkpoint", "rpn/last_checkpoint"])
def test_a_restart_does_not_resume_the_run_that_was_there_before(
    cluster, enter_task, tmp_path, place
):
    seen, path = [], tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_text("model_0089999.pth")
    job = slurm.SubmittedCommand(lambda args: seen.append(args.resume), parse(), str(tmp_path))
    enter_task(SLURM_RESTART_COUNT="1")
    job()  # it was stopped before it began
    path.write_text("model_0000009.pth")
    os.utime(path, ns=(0, job._earlier[str(path)] + 1))
    job()
    assert seen == [False, True]


def test_a_restart_evaluates_the_same_weights(cluster, enter_task, tmp_path):
    """With --resume they would be the last checkpoint in the folder."""
    seen, args = [], parse("--eval-only", "MODEL.WEIGHTS", "model_best.pth")
    job = slurm.SubmittedCommand(lambda args: seen.append(args.resume), args, str(tmp_path))
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    enter_task(SLURM_RESTART_COUNT="1")
    job()
    assert seen == [False]


def test_what_slurm_stops_is_queued_again_and_an_error_is_its_exit_code(cluster, enter_task):
    enter_task()
    job = slurm.SubmittedCommand(lambda args: 2, parse(), "out")
    assert job.checkpoint().function is job
    with pytest.raises(SystemExit, match=r"^2$"):
        job()


@pytest.fixture
def events(cluster, enter_task, monkeypatch):
    """Enter a task with a handler as submitit's; return the list of what happened, in order."""
    enter_task()
    happened = []

    def queue_again(number, frame):
        happened.append("queued again")
        sys.exit(-1)  # as in process 0

    before = signal.signal(signal.SIGUSR2, queue_again)
    monkeypatch.setattr(time, "sleep", lambda seconds: happened.append(f"waited {seconds} s"))
    yield happened
    put_back = signal.signal(signal.SIGUSR2, before)
    assert put_back.__name__ == "queue_again"


def stop_before_limit(happened, code, signals=1):
    """Return a command that takes SIGTERM, gets SIGUSR2 and ends with an exit code."""

    def command(args):
        try:
            with raise_signals():
                for _ in range(signals):
                    os.kill(os.getpid(), signal.SIGUSR2)
                happened.append("went on")
        except Interrupted as interrupted:
            happened.append(f"saved after {interrupted}")
        return code

    return command


@pytest.mark.parametrize("signals", [1, 2])
def test_at_the_time_limit_a_command_saves_before_it_is_queued_again(events, signals):
    assert end_task(stop_before_limit(events, 143, signals)) == -1
    assert events == ["saved after SIGTERM", "queued again"]


def test_at_the_time_limit_another_process_waits_for_process_0(events):
    def queue_again(number, frame):
        """Do nothing, as submitit's handler there."""

    signal.signal(signal.SIGUSR2, queue_again)
    assert end_task(stop_before_limit(events, 143)) == 143
    assert events == ["saved after SIGTERM", "waited 20 s"]


def test_process_0_waits_for_its_own_signal_if_it_has_stopped_with_the_others(events, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: os.kill(os.getpid(), signal.SIGUSR2))
    assert end_task(lambda args: 143) == -1
    assert events == ["queued again"]


def test_a_command_that_is_stopping_gets_no_second_signal(events, monkeypatch):
    """Slurm sends SIGTERM, and SIGUSR2 while a prediction merges its results."""
    monkeypatch.setattr(interruption, "_SAME", 0.0)

    def command(args):
        with raise_signals():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except Interrupted:
                os.kill(os.getpid(), signal.SIGUSR2)
                events.append("merged")
        return 143

    end_task(command)
    assert events == ["merged", "queued again"]
    assert not interruption.is_stopping()


def test_the_signal_of_the_time_limit_may_be_another_one(cluster, enter_task, monkeypatch):
    enter_task()
    # What SUBMITIT_PREEMPT_SIGNAL sets when submitit is imported.
    monkeypatch.setattr("submitit.core.job_environment.JobEnvironment.USR_SIG", "USR1")
    happened = []

    def queue_again(number, frame):
        happened.append("queued again")

    before = signal.signal(signal.SIGUSR1, queue_again)
    monkeypatch.setattr(time, "sleep", lambda _: None)

    def command(args):
        with pytest.raises(Interrupted), raise_signals():
            os.kill(os.getpid(), signal.SIGUSR1)
        happened.append("saved")
        return 143

    end_task(command)
    assert happened == ["saved", "queued again"]
    assert signal.signal(signal.SIGUSR1, before) is queue_again


@pytest.mark.parametrize("code", [0, 2])
def test_a_command_that_ends_by_itself_at_the_time_limit_is_not_queued_again(events, code):
    job = slurm.SubmittedCommand(stop_before_limit(events, code), parse(), "out")
    with pytest.raises(SystemExit) if code else contextlib.nullcontext():
        job()
    assert events == ["saved after SIGTERM"]


def test_a_command_that_does_not_take_the_signal_is_queued_again_at_once(events):
    def command(args):
        os.kill(os.getpid(), signal.SIGUSR2)
        events.append("went on")

    end_task(command)
    assert events == ["queued again"]


def test_a_worker_ignores_the_signal_of_the_time_limit(events):
    def command(args):
        if (worker := os.fork()) == 0:
            os.kill(os.getpid(), signal.SIGUSR2)
            os._exit(5)
        return os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])

    assert end_task(command) == 5
    assert events == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("partition=gpu", "a time limit of 5 minutes or more, .* got None"),
        ("time=0", "a time limit of 5 minutes or more, .* got 0"),  # 5 minutes would be taken
        ("time=4", "a time limit of 5 minutes or more, .* got 4"),
        ("time=2:00:00", "a time limit of 5 minutes or more, .* got '2:00:00'"),
        ("time", "expected KEY=VALUE, such as time=720, got 'time'"),
        ("time=60 gpu=3", r"--slurm: Unavailable parameter\(s\): \['gpu'\]"),
    ],
)
def test_wrong_options(cluster, tmp_path, options, told):
    with pytest.raises(UserError, match=told):
        launch(train, parse("--slurm-options", options, "OUTPUT_DIR", str(tmp_path / "out")))


def test_what_is_missing(tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="--slurm needs OUTPUT_DIR DIR on the command line"):
        launch(train, parse())
    with pytest.raises(UserError, match="--slurm-options needs --slurm"):
        launch(train, argument_parser().parse_args(["--slurm-options", "time=30"]))
    arguments = ["model.pth", "photos", "--output", str(tmp_path), "--slurm", "--processes", "2"]
    assert predict_tool.main(arguments) == 2
    assert "leave out --processes" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r'pip install "mask_rcnn_ext\[slurm\]"'):
        launch(train, parse("OUTPUT_DIR", str(tmp_path)))


def test_a_machine_without_slurm(tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason='needs the package submitit: pip install "submitit"')
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="--slurm: Could not detect"):
        launch(train, parse("--slurm-options", "time=30", "OUTPUT_DIR", str(tmp_path / "out")))
