"""`torchrun --max-restarts` with two processes, also as two nodes, and kills at random."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from small_runs import read_weights
from support import REPO
from trainings import Faults, Variant, check_end, check_folder, find_last

_SECONDS = 900  # for one training


def find_workers(agents: list[subprocess.Popen]) -> list[int]:
    """Return the ids of the training processes: the children of `torchrun`."""
    ids = {agent.pid for agent in agents}
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) in ids and fields[0] != "Z":
            found.append(int(path.parent.name))
    return sorted(found)


def find_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


def launch(variant: Variant, folder: Path, output: Path, nodes: int, restarts: int) -> list[Any]:
    """Start `torchrun`, once for each node; return its processes."""
    common = [sys.executable, "-m", "torch.distributed.run", f"--max-restarts={restarts}"]
    if nodes == 1:
        common += ["--standalone", "--nproc-per-node=2"]
    else:
        common += ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d"]
        common += [f"--rdzv-endpoint=localhost:{find_port()}", f"--rdzv-id={folder.name}"]
    command = [*common, str(REPO / "train_net.py"), *variant.arguments(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(output, "ab") as file:
        return [
            subprocess.Popen(command, stdout=file, stderr=file, env=environment)
            for _ in range(nodes)
        ]


def wait(agents: list[Any], until: float) -> None:
    try:
        for agent in agents:
            agent.wait(max(1, until - time.monotonic()))
    finally:
        for agent in agents:
            if agent.poll() is None:
                agent.terminate()
                agent.wait()


def measure_log(folder: Path) -> int:
    """Return the length of the log; -1 while there is none, or while it is moved aside."""
    try:
        return (folder / "log.txt").stat().st_size
    except FileNotFoundError:
        return -1


def kill_a_process(
    agents: list[Any], folder: Path, known: set[int], rng: random.Random, until: float
) -> bool:
    """Kill one process, at a random moment after it has begun; return whether there was one."""
    while all(agent.poll() is None for agent in agents) and time.monotonic() < until:
        workers = [process for process in find_workers(agents) if process not in known]
        if len(workers) == 2:
            size = measure_log(folder)
            while measure_log(folder) == size and set(workers) <= set(find_workers(agents)):
                time.sleep(0.05)  # until this attempt has begun
            time.sleep(rng.uniform(0, 3))  # a training takes about 2
            known.update(workers)
            try:
                os.kill(rng.choice(workers), signal.SIGKILL)
            except ProcessLookupError:
                return False
            return True
        time.sleep(0.05)
    return False


def restart_trainings(
    variants: list[Variant], root: Path, faults: Faults, seed: int, kills: int
) -> Iterator[dict[str, Any]]:
    """Train each variant as one and as two nodes, with kills; compare with undisturbed runs.

    Yields:
        What was done so far, after each training.
    """
    rng, rows, whole = random.Random(seed), [], {}
    for variant in variants:
        if variant.precision not in whole:  # the workers do not count
            folder = root / f"torchrun {variant.precision}"
            agents = launch(variant, folder, root / f"{folder.name}.txt", nodes=1, restarts=0)
            wait(agents, time.monotonic() + _SECONDS)
            whole[variant.precision] = read_weights(folder / "model_final.pth")
        for nodes in (1, 2):
            folder = root / f"torchrun {variant.precision} {variant.workers} {nodes}"
            output = root / f"{folder.name}.txt"
            where, until = f"{variant.name}, {nodes} nodes", time.monotonic() + _SECONDS
            agents, known, done = launch(variant, folder, output, nodes, restarts=20), set(), 0
            while done < kills and kill_a_process(agents, folder, known, rng, until):
                done += 1
            wait(agents, until)
            codes = [agent.returncode for agent in agents]
            # If a process is killed after its work, its node cannot join the other one again. It
            # ends with an error, and nothing is missing.
            ended = time.monotonic() < until and sorted(codes) == [0, 1]
            late = ended and (folder / "results.json").is_file()
            if (any(codes) and not late) or find_last(folder) < 0:
                faults.not_resumable.append(f"{where}: exit codes {codes}, see {output}")
            else:
                check_folder(folder, {}, -1, where, faults)
                check_end(folder, whole[variant.precision], where, faults)
                if list(folder.glob("earlier_runs/*/last_checkpoint")):
                    faults.lost.append(f"{where}: a restart began from the start")
            started_again = output.read_text(errors="replace").count("torchrun has started again")
            row = {"variant": variant.name, "nodes": nodes, "kills": done, "resumed": started_again}
            rows.append({**row, "killed_after_the_end": late})
            print(f"{where}: {done} kills, resumed {started_again} times, {codes}", flush=True)
            if late or not any(codes):
                shutil.rmtree(folder)
            yield {"kills": sum(row["kills"] for row in rows), "trainings": rows}
