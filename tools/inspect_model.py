"""Print the contents of a model file: classes, images, origin, weights and config.

    python tools/inspect_model.py output/run/model_final.pth

Exit code: 0; 2 if the file is missing or cannot be read.
"""

import argparse
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from command_line.early import stop_at_mistakes


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    kinds = "a file such as model_final.pth, model.safetensors, model.onnx or model.xml"
    parser.add_argument("model", metavar="MODEL", help=kinds)
    return parser


if __name__ == "__main__":
    # --help and simple mistakes end here, before the imports below, which take seconds.
    stop_at_mistakes(build_parser().parse_args())

from detectron2.config import CfgNode

from mask_rcnn_ext import UserError
from mask_rcnn_ext.checkpoint.description import load_contents, parse_config
from mask_rcnn_ext.config import allow_new_keys, find_changed_keys
from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.errors import count_noun
from mask_rcnn_ext.model_files import is_exported
from mask_rcnn_ext.modeling.exported import read_exported_config


def describe_names(contents: Mapping[str, Any], cfg: CfgNode | None) -> Iterator[str]:
    """Yield lines on the classes and the keypoints."""
    names = contents.get("class_names") or (cfg and list(cfg.MASK_RCNN_EXT.CLASS_NAMES))
    yield f"classes: {join(names)}" if names else "classes: their names are not in the file"
    if keypoints := contents.get("keypoint_names"):
        yield f"keypoints: {join(keypoints)}"
    elif cfg and cfg.MODEL.KEYPOINT_ON:
        yield "keypoints: their names are not in the file"


def join(names: Any) -> str:
    """Return a list as text, with its length."""
    return f"{', '.join(map(str, names))} ({len(names)})" if isinstance(names, list) else str(names)


def describe_images(cfg: CfgNode) -> Iterator[str]:
    """Yield lines on the preparation of images for the model."""
    colours = 1 if cfg.INPUT.FORMAT == "L" else len(cfg.MODEL.PIXEL_MEAN)
    channels = cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS or colours
    yield f"images: {count_noun(channels, 'channel')}, {cfg.INPUT.FORMAT} (INPUT.FORMAT)"
    if cfg.INPUT.MIN_SIZE_TEST:
        yield (
            f"  resized to {cfg.INPUT.MIN_SIZE_TEST} pixels on the shorter side, at most "
            f"{cfg.INPUT.MAX_SIZE_TEST} on the longer one "
            "(INPUT.MIN_SIZE_TEST, INPUT.MAX_SIZE_TEST)"
        )
    else:
        yield "  not resized (INPUT.MIN_SIZE_TEST 0)"
    yield f"  minus {list(cfg.MODEL.PIXEL_MEAN)} (MODEL.PIXEL_MEAN)"
    yield f"  divided by {list(cfg.MODEL.PIXEL_STD)} (MODEL.PIXEL_STD)"


def describe_training(contents: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines on where the weights come from."""
    if isinstance(contents.get("iteration"), int):
        yield f"trained for: {count_noun(contents['iteration'] + 1, 'iteration')}"
    if isinstance(best := contents.get("best"), dict):
        yield f"best model: {best.get('metric')} {best.get('value')}"
    made = contents.get("provenance")
    if not isinstance(made, dict):
        yield "provenance: not in the file (versions, data, seed)"
        return
    yield f"seed: {made.get('seed')}"
    yield f"started from: {made.get('initial_weights') or 'random weights'}"
    yield "versions: " + ", ".join(f"{k} {v}" for k, v in pairs(made.get("versions")))
    for split, sets in pairs(made.get("data")):
        for name, facts in pairs(sets):
            said = dict(pairs(facts))
            yield f"{split} data: {name}, {said.get('file')}, SHA-256 {said.get('sha256')}"


def pairs(value: Any) -> list[tuple[Any, Any]]:
    """Return the entries of a dict; none of anything else, which another author may have put."""
    return list(value.items()) if isinstance(value, dict) else []


def describe_weights(contents: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines on the number of weights in each part of the model."""
    parts: dict[str, int] = {}
    # Detectron and pycls keep the weights under names of their own.
    kept = (contents[key] for key in ("model", "blobs", "model_state") if key in contents)
    for name, value in pairs(next(kept, contents)):
        if hasattr(value, "shape"):
            words = str(name).split(".")
            part = ".".join(words[: 2 if words[0] == "roi_heads" else 1])
            parts[part] = parts.get(part, 0) + math.prod(value.shape)
    yield f"weights, with the statistics of norms: {sum(parts.values()):,}"
    for part, count in parts.items():
        yield f"  {part}: {count:,}"


def describe_config(cfg: CfgNode) -> Iterator[str]:
    """Yield a line for each key that differs from its default."""
    changed = find_changed_keys(cfg)
    yield f"config: {count_noun(len(changed), 'value')} other than the defaults"
    for key, value in changed.items():
        yield f"  {key}: {value!r}"


def describe(path: str) -> Iterator[str]:
    """Yield the lines that are printed.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    if is_exported(path):
        yield path
        cfg = read_exported_config(path, add_keys=allow_new_keys)
        cfg.MODEL.WEIGHTS = ""  # it is the file itself
        yield from describe_names({}, cfg)
        yield from describe_images(cfg)
        yield f"score threshold: {cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST}"
        yield from describe_config(cfg)
        return
    contents = load_contents(path)
    yield path
    try:
        cfg = parse_config(contents, path, add_keys=allow_new_keys)
        cfg.MODEL.WEIGHTS = ""  # it is the file itself
    except UserError as error:
        cfg, missing = None, str(error)
    yield from describe_names(contents, cfg)
    if cfg:
        yield from describe_images(cfg)
    yield from describe_training(contents)
    yield from describe_weights(contents)
    yield from describe_config(cfg) if cfg else [f"config: {missing}"]


def printable(line: str) -> str:
    """Return a line in which a character that would steer the terminal is written out."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    path = build_parser().parse_args(argv).model
    return run_as_command(lambda: print("\n".join(map(printable, describe(path)))))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    sys.exit(main())
