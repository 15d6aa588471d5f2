"""Collects the facts about the training data and the machine that a recipe needs."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import BoxMode

from ...errors import UserError

__all__ = ["DataFacts", "Machine", "collect_facts", "look_at_machine"]

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container; "max" without a limit


@dataclass(frozen=True)
class DataFacts:
    """Sizes and counts of a training set of N images and B objects; crowd regions do not count.

    Attributes:
        image_sizes: (N, 2), height and width in pixels.
        box_sizes: (B, 2), height and width in pixels.
        box_images: (B,), the index of each object's image.
        class_images: for each class, the share of the images that show it; none is 0.
    """

    image_sizes: np.ndarray
    box_sizes: np.ndarray
    box_images: np.ndarray
    class_images: Mapping[int, float]

    @property
    def objects_per_image(self) -> np.ndarray:
        """(N,), the number of objects in each image."""
        return np.bincount(self.box_images, minlength=len(self.image_sizes))

    def scale_images(self, short: float, longest: float) -> np.ndarray:
        """Return (N,), the factors by which `ResizeShortestEdge(short, longest)` resizes."""
        sides = np.sort(self.image_sizes, axis=1)
        return np.minimum(short / sides[:, 0], longest / sides[:, 1])

    def scale_boxes(self, short: float, longest: float) -> np.ndarray:
        """Return (B, 2), the sizes of the objects after resizing."""
        return self.box_sizes * self.scale_images(short, longest)[self.box_images, None]


def collect_facts(dataset_dicts: Sequence[Mapping[str, Any]]) -> DataFacts:
    """Return the facts of images in detectron2's format.

    Raises:
        UserError: there is no object.
    """
    boxes, box_images, class_images = [], [], Counter[int]()
    for index, record in enumerate(dataset_dicts):
        objects = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
        for each in objects:
            x0, y0, x1, y1 = BoxMode.convert(
                list(each["bbox"]), BoxMode(each["bbox_mode"]), BoxMode.XYXY_ABS
            )
            boxes.append((max(y1 - y0, 1.0), max(x1 - x0, 1.0)))
            box_images.append(index)
        class_images.update({each["category_id"] for each in objects})
    if not boxes:
        raise UserError("--auto: the training data has no object to derive a recipe from")
    return DataFacts(
        np.array([(d["height"], d["width"]) for d in dataset_dicts], dtype=float),
        np.array(boxes, dtype=float),
        np.array(box_images),
        {label: count / len(dataset_dicts) for label, count in sorted(class_images.items())},
    )


@dataclass(frozen=True)
class Machine:
    """The resources of a run.

    Attributes:
        device: `"cpu"` or `"cuda"`.
        memory: all memory in bytes; with `"cuda"`, the memory of one GPU.
        threads: number of threads that PyTorch uses on the CPU.
        processes: number of processes of the run. Each has a GPU of its own; processes on the CPU
            share the memory.
    """

    device: str
    memory: int
    threads: int = 1
    processes: int = 1


def look_at_machine(device: str, processes: int = 1) -> Machine:
    """Return the resources of this machine, for a run on `MODEL.DEVICE` in some processes."""
    if torch.device(device).type == "cuda":
        memory = torch.cuda.get_device_properties(torch.device(device)).total_memory
        return Machine("cuda", memory, processes=processes)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.is_file() else "max"
    if limit != "max":
        memory = min(memory, int(limit))
    return Machine("cpu", memory, torch.get_num_threads(), processes)
