"""Torture a small training: kills at random moments, full disks, restarts; and watch memory.

python tests/torture/run.py --kills 1000

The result file has a part for each; `--parts` runs some of them, and the others in the file stay.
The exit code is 1 if anything was lost, corrupt, not resumable, not equal to the bit, left behind,
told in another way than with one sentence, or grown in memory.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("kills", "disks", "restarts", "memory")
_PATHS = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/torture")]
sys.path[:0] = _PATHS


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000, metavar="N", help="default: 1000")
    parser.add_argument("--disks", type=int, default=100, metavar="N", help="default: 100")
    parser.add_argument(
        "--restarts", type=int, default=2, metavar="N", help="kills of each run, default: 2"
    )
    for what, number in (("predictions", 2000), ("evaluations", 5000)):
        parser.add_argument(
            f"--{what}", type=int, default=number, metavar="N", help=f"images, default: {number}"
        )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=ROOT / "results/torture.json")
    args = parser.parse_args()
    # The fork server and `torchrun` start with the same paths.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([*_PATHS, *([before] if before else [])])
    os.environ["OMP_NUM_THREADS"] = "1"

    from kills import fill_disks, kill_trainings, run_whole
    from memory import measure_memory
    from restarts import restart_trainings
    from trainings import CONTEXT, Faults, make_variants

    from mask_rcnn_ext.files import read_json_or_none, write_json
    from tools.benchmarking.machine import describe_machine

    CONTEXT.set_forkserver_preload(["trainings"])
    root = Path(tempfile.mkdtemp(prefix="torture-"))
    print(f"folder  {root}", flush=True)
    variants, failed = make_variants(root), False
    whole = run_whole(variants, root) if {"kills", "disks"} & set(args.parts) else {}
    for part in args.parts:
        faults, began = Faults(), time.monotonic()
        if part == "kills":
            steps = kill_trainings(args.kills, variants, whole, root, faults, args.seed)
        elif part == "disks":
            steps = fill_disks(args.disks, variants, whole, root, faults, args.seed)
        elif part == "memory":
            steps = measure_memory(args.predictions, args.evaluations, root, faults)
        else:
            steps = restart_trainings(variants, root, faults, args.seed, args.restarts)
        found = {}
        for so_far in steps:  # written after each training: what takes hours may be stopped
            counts = {"faults": faults.count(), "seconds": round(time.monotonic() - began)}
            found = {**so_far, **counts, "seed": args.seed, "machine": describe_machine()}
            write_json(args.results, {**(read_json_or_none(args.results) or {}), part: found})
        print(part, found, flush=True)
        for name, places in vars(faults).items():
            for where in places:
                print(f"{name}: {where}", flush=True)
                failed = True
    print(f"results {args.results}")
    if not failed:
        shutil.rmtree(root)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
