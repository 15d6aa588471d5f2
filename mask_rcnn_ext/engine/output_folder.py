"""Prepares the folder of a run; after a mistake the folder is as it was before."""

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.utils import comm

from ..config import flat_config
from ..data.own_data import get_split_paths
from ..errors import UserError, refuse_no_folder
from ..files import atomic_open, record_writes, require_writable
from ..run_files import (
    EARLIER,
    FOLDERS,
    find_free_folder,
    find_run_files,
    holds_training,
    move,
    move_back,
    remove_empty,
)
from ..steps import decide
from ..temporary_files import remove_left_behind
from .interruption import raise_signals
from .log import end_log, open_log_file, start_log
from .process_group import is_lost_connection
from .run_lock import lock_folder, mark_begun, release_folders

__all__ = [
    "choose_evaluation_folder",
    "choose_output_folder",
    "log_changes",
    "output_folder",
    "read_earlier_config",
]

logger = logging.getLogger(__name__)


def choose_output_folder(cfg: CfgNode, config_file: str, opts: Sequence[str]) -> str:
    """Return the folder of a run, wherever the command is started.

    Args:
        cfg: the config.
        config_file: where it comes from. If it is the `config.yaml` of a run, this run's folder
            counts: `OUTPUT_DIR` in the file may be relative, and the folder may have been moved.
        opts: KEY VALUE pairs of the command line; `OUTPUT_DIR` among them counts in any case.

    Raises:
        UserError: `OUTPUT_DIR` is empty; detectron2 would then save no weights.
    """
    if not cfg.OUTPUT_DIR:
        refuse_no_folder("OUTPUT_DIR")
    path = Path(os.path.abspath(config_file))
    if path.name != "config.yaml" or "OUTPUT_DIR" in opts[::2]:
        return str(cfg.OUTPUT_DIR)
    folder, given = path.parent, Path(cfg.OUTPUT_DIR)
    is_run = (folder / "log.txt").is_file() or holds_training(folder)
    if not is_run or (given.exists() and given.samefile(folder)):
        return str(cfg.OUTPUT_DIR)
    return str(folder)


def choose_evaluation_folder(cfg: CfgNode) -> str:
    """Return the folder of an evaluation.

    Args:
        cfg: the config, whose `MODEL.WEIGHTS` are evaluated.

    Returns:
        `OUTPUT_DIR`; if it holds a training, `OUTPUT_DIR/evaluations/<data>-<weights>`,
        where the weights end with .xml or .safetensors if their file does.
    """
    if not holds_training(Path(cfg.OUTPUT_DIR)):
        return str(cfg.OUTPUT_DIR)
    own = cfg.MASK_RCNN_EXT.DATA.VAL_JSON
    data = Path(own).stem if own else "-".join(cfg.DATASETS.TEST)
    weights = Path(cfg.MODEL.WEIGHTS)
    # The files of one model in several formats, such as model.onnx and model.xml, have one stem.
    file = weights.name if weights.suffix in (".xml", ".safetensors") else weights.stem
    name = re.sub(r"[^\w.-]+", "_", f"{data}-{file}")
    return os.path.join(cfg.OUTPUT_DIR, "evaluations", name[:200])


@contextlib.contextmanager
def output_folder(cfg: CfgNode, *, resume: bool) -> Iterator[None]:
    """Make `OUTPUT_DIR` and start the log; at the end of the block, begin the run in it.

    At its end, the files of an earlier run move to `earlier_runs/N`, unless the run is resumed, and
    `config.yaml` is written. After a `UserError` or an interruption, in this process or in another
    one of the run, the folder is as it was before.
    A file that this run did not write is never touched. A file of an earlier run that the block
    opens and keeps open, as detectron2's `JSONWriter` does, moves with the earlier run.

    Args:
        cfg: the config of the run; the block may change it.
        resume: continue the run in the folder.

    Raises:
        UserError: the folder cannot be made or written, its path is not UTF-8, or another run uses
            it.
    """
    folder = Path(cfg.OUTPUT_DIR).absolute()
    if (plain := str(folder).encode("utf-8", "backslashreplace").decode()) != str(folder):
        raise UserError(
            f"OUTPUT_DIR: expected a path in UTF-8, as TensorBoard's files need it, got {plain}. "
            "Give the folder another name"
        )
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    comm.synchronize()  # every process has looked before one of them makes the folder
    main, written = comm.is_main_process(), []
    moved: list[tuple[Path, Path]] = []
    try:
        require_writable(folder)
        decide(lambda: lock_folder(folder, begun=resume))
    except UserError as error:
        remove_empty(missing)
        raise UserError(f"OUTPUT_DIR: {error}") from error
    if comm.is_main_process():
        remove_left_behind(folder, ["data", *FOLDERS])
    comm.synchronize()  # the files of an earlier run are looked up when the others are gone
    earlier, data = find_free_folder(folder), folder / "data"
    old = [] if resume else find_run_files(folder)  # now: the block may write files of this run
    try:
        with raise_signals(), record_writes() as written:
            # The new run may clean its data into the folder `data`.
            if main and not _is_read(cfg, data):
                moved += move(_find_data(cfg, data, old), folder, earlier)
            comm.synchronize()
            start_log()
            yield
            comm.synchronize()  # in no process was there a mistake
            if main:
                moved += move([path for path in old if path != data], folder, earlier)
                _begin(cfg, folder, earlier)
            comm.synchronize()
            open_log_file(str(folder))
    except (Exception, KeyboardInterrupt) as error:
        mistake = isinstance(error, UserError | KeyboardInterrupt)
        if not (mistake or is_lost_connection(error)):  # a defect: the log may say more
            open_log_file(str(folder))
            raise
        end_log()
        for path in written:
            path.unlink(missing_ok=True)
            remove_empty([path.parent])
        if main:
            move_back(moved)
            remove_empty([earlier, earlier.parent])
            with contextlib.suppress(OSError):  # a full disk
                lock_folder(folder, begun=resume)  # the files in it are again the earlier ones
            release_folders(failed=True)
        remove_empty(missing)
        raise


def _find_data(cfg: CfgNode, data: Path, old: list[Path]) -> list[Path]:
    """Return the data of an earlier run that the new run may replace.

    Args:
        cfg: the config of the new run.
        data: the folder `data` of the run.
        old: the files and folders of the earlier run; empty if it is resumed.
    """
    own = cfg.MASK_RCNN_EXT.DATA
    if data in old:
        return [data]
    if old and (own.SPLIT or own.GROUP_BY):
        return [path for path in map(Path, get_split_paths(str(data))) if path.is_file()]
    return []


def _is_read(cfg: CfgNode, folder: Path) -> bool:
    """Return whether the run reads its data from a folder."""
    own = cfg.MASK_RCNN_EXT.DATA
    return any(Path(path).absolute().parent == folder for path in (own.TRAIN_JSON, own.VAL_JSON))


def _begin(cfg: CfgNode, folder: Path, earlier: Path) -> None:
    if earlier.exists():
        logger.info(
            "%s held an earlier run. Its files are now in %s/%s.", folder, EARLIER, earlier.name
        )
    with atomic_open(folder / "config.yaml", "w") as file:
        file.write(cfg.dump())
    mark_begun(folder)


def read_earlier_config(cfg: CfgNode) -> dict[str, Any]:
    """Return the keys and values of the `config.yaml` in `OUTPUT_DIR`; none if it is no config."""
    try:
        text = Path(cfg.OUTPUT_DIR, "config.yaml").read_text("utf-8")
        return dict(flat_config(CfgNode.load_cfg(text)))
    except (OSError, ValueError, yaml.YAMLError):
        return {}


def log_changes(cfg: CfgNode) -> None:
    """Log in one line which keys have other values than the `config.yaml` of the run so far."""
    before = read_earlier_config(cfg)
    if not before:
        return
    after = dict(flat_config(CfgNode.load_cfg(cfg.dump())))
    changes = [
        f"{key} {before[key]} -> {value}"
        for key, value in after.items()
        if key != "OUTPUT_DIR" and before.get(key, value) != value
    ]
    if changes:
        logger.info("Changed since the run was started: %s", ", ".join(changes))
