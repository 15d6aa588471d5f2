"""Rules of a recipe for batch size, learning rate, length of the training, and rare classes."""

import math

import numpy as np

from ...errors import count_noun
from .facts import DataFacts, Machine
from .plan import Plan

__all__ = ["choose_batch", "choose_length", "choose_rate", "choose_sampler"]

_CPU_BATCH = (4, 16)
_GPU_BATCH = 16  # of the paper and of detectron2's configs
_BYTES_PER_PIXEL = 4000  # see choose_batch
_MEMORY_SHARE = {"cpu": 0.5, "cuda": 0.8}
_FEWEST_BATCHES = 8  # in an epoch
_EPOCHS = 12
_FEWEST_IMAGES = 2000
_FEWEST_ITERATIONS = 500
_LARGEST_WARMUP = 0.1
_IMBALANCED = 5
_MOST_REPEATED = 4


def choose_batch(plan: Plan, facts: DataFacts, machine: Machine) -> None:
    """Choose the images of an iteration, a power of 2.

    On a GPU the number is detectron2's 16. A CPU is hardly faster with more images at once, and
    more iterations learn more: there it is the number of threads, at least 4 and at most 16. An
    epoch has at least 8 iterations. Memory is a limit, with 4000 bytes for each pixel of the
    images: detectron2's model zoo gives 3.4 GB for Mask R-CNN with R50-FPN and 7.2 GB with
    X101-FPN, for two images of 800 x 1333, which is up to 3400 bytes.
    """
    key, processes = "SOLVER.IMS_PER_BATCH", machine.processes
    if plan.reference.SOLVER.REFERENCE_WORLD_SIZE:
        reason = "the batch size is for the processes of this run"
        plan.choose("SOLVER.REFERENCE_WORLD_SIZE", 0, reason)
    gpu = machine.device == "cuda"
    least, most = _CPU_BATCH
    wanted = _GPU_BATCH if gpu else min(max(_floor(machine.threads * processes), least), most)
    threads = machine.threads * processes
    cpu = f"for {threads} CPU threads" if threads > 1 else "for one CPU thread"
    reason = "detectron2's on GPUs" if gpu else cpu
    shorts, longest = plan["INPUT.MIN_SIZE_TRAIN"], plan["INPUT.MAX_SIZE_TRAIN"]
    scales = facts.scale_images(max(shorts), longest) if max(shorts) else 1.0
    pixels = float((facts.image_sizes.prod(axis=1) * scales**2).max())
    memory = machine.memory * (processes if gpu else 1) * _MEMORY_SHARE[machine.device]
    fitting = _floor(memory / (_BYTES_PER_PIXEL * pixels))
    few = _floor(len(facts.image_sizes) / _FEWEST_BATCHES)
    if fitting < wanted:
        wanted = fitting
        reason = f"what fits in {memory / 1e9:.0f} GB with {pixels / 1e6:.1f} megapixels an image"
    if few < wanted:
        wanted = max(few, min(2, wanted))
        count = count_noun(len(facts.image_sizes), "image")
        reason = f"{count}: an epoch has {_FEWEST_BATCHES} iterations"
    if processes > 1:
        wanted = max(wanted // processes, 1) * processes
        reason += f"; a multiple of {processes} processes"
    plan.choose(key, wanted, reason)


def _floor(value: float) -> int:
    """Return the largest power of 2 up to `value`, at least 1."""
    return 2 ** int(math.log2(max(value, 1)))


def choose_rate(plan: Plan) -> None:
    """Scale the config's learning rate to the batch size.

    With SGD the rate is proportional to the batch size (Goyal et al. 2017, arXiv:1706.02677). AdamW
    divides a gradient by its typical size, so the noise of the steps grows with `rate^2 / batch`:
    the rate is proportional to the square root of the batch size (Malladi et al. 2022,
    arXiv:2205.10287).
    """
    solver = plan.reference.SOLVER
    old, new = solver.IMS_PER_BATCH, plan["SOLVER.IMS_PER_BATCH"]
    adamw = plan["MASK_RCNN_EXT.OPTIMIZER"] == "AdamW"
    factor = math.sqrt(new / old) if adamw else new / old
    rule = "square root of the batch size (AdamW)" if adamw else "batch size (SGD, linear rule)"
    reason = f"the config's {solver.BASE_LR:g} for {old} images, scaled with the {rule}"
    if new == old:
        reason = f"the config's, for its batch size of {old}"
    plan.choose("SOLVER.BASE_LR", float(f"{solver.BASE_LR * factor:.3g}"), reason)


def choose_length(plan: Plan, images: int, epochs: float | None) -> None:
    """Choose the length of the training and what depends on it.

    Args:
        plan: the plan, which is extended.
        images: the number of training images.
        epochs: number of epochs. None: 12, as in detectron2's schedule "1x" on COCO, but at least
            2000 images and 500 iterations.
    """
    batch, solver = plan["SOLVER.IMS_PER_BATCH"], plan.reference.SOLVER
    if epochs is not None:
        iterations = math.ceil(epochs * images / batch)
        reason = f"--epochs {epochs:g}, of {count_noun(images, 'image')}"
    else:
        iterations = math.ceil(_EPOCHS * images / batch)
        reason = f"{_EPOCHS} epochs of {count_noun(images, 'image')}, as detectron2's schedule 1x"
        least = max(math.ceil(_FEWEST_IMAGES / batch), _FEWEST_ITERATIONS)
        if iterations < least:
            iterations = least
            reason = (
                f"a small data set: at least {_FEWEST_ITERATIONS} iterations and {_FEWEST_IMAGES} "
                f"images, here {iterations * batch / images:.0f} epochs of {images}"
            )
    plan.choose("SOLVER.MAX_ITER", max(iterations, 1), reason)
    share = plan["SOLVER.MAX_ITER"] / solver.MAX_ITER
    same = "at the same share of the run as in the config"
    if "Step" in plan["SOLVER.LR_SCHEDULER_NAME"]:
        # In a short run two steps may fall together, or on its end.
        steps = {max(round(step * share), 1) for step in solver.STEPS}
        inside = sorted(step for step in steps if step < plan["SOLVER.MAX_ITER"])
        plan.choose("SOLVER.STEPS", inside, same)
    longest = max(int(_LARGEST_WARMUP * plan["SOLVER.MAX_ITER"]), 1)
    reason = "the config's" if longest >= solver.WARMUP_ITERS else "a tenth of the run"
    plan.choose("SOLVER.WARMUP_ITERS", min(solver.WARMUP_ITERS, longest), reason)
    if plan.reference.TEST.EVAL_PERIOD:
        period = max(round(plan.reference.TEST.EVAL_PERIOD * share), 1)
        plan.choose("TEST.EVAL_PERIOD", period, same)


def choose_sampler(plan: Plan, facts: DataFacts) -> None:
    """Repeat images of rare classes if the classes are imbalanced (LVIS, arXiv:1908.03195)."""
    key = "DATALOADER.SAMPLER_TRAIN"
    if plan.reference.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
        return
    shares = np.array(list(facts.class_images.values()))
    rarest, most = (round(len(facts.image_sizes) * share) for share in (shares.min(), shares.max()))
    counts = f"the commonest class is in {most} images, the rarest in {rarest}"
    if most < _IMBALANCED * rarest:
        reason = "one class" if len(shares) == 1 else f"the classes are balanced: {counts}"
        plan.choose(key, "TrainingSampler", reason)
        return
    plan.choose(key, "RepeatFactorTrainingSampler", f"{counts}: images of rare ones are repeated")
    # An image is repeated sqrt(threshold / share of its rarest class) times.
    threshold = min(float(np.median(shares)), _MOST_REPEATED**2 * float(shares.min()))
    plan.choose(
        "DATALOADER.REPEAT_THRESHOLD",
        float(f"{threshold:.3g}"),
        f"classes in fewer images than the median class, up to {_MOST_REPEATED} times",
    )
