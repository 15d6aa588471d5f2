"""detectron2's config node, with safe yaml and errors that name the most similar key."""

import ast
import contextlib
import difflib
import functools
import io
import itertools
import operator
import os
import re
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import IO, Any

import fvcore.common.config
import yacs.config
import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.utils.file_io import PathManager

from .config_text import (
    DumperWithoutAliases,
    LoaderWithoutAliases,
    check_text,
    explain_group,
)
from .errors import UserError, nearest, shorten
from .old_names import move_old_nodes, rename_old_key, rename_old_parts

__all__ = [
    "MAY_BE_NOTHING",
    "ExtCfgNode",
    "flat_config",
    "publish_class_names",
    "require_config_node",
]


_NO_LAZY_CONFIG = "Python configs (LazyConfig) are not supported"
_FILES_BEING_READ: ContextVar[tuple[str, ...]] = ContextVar("files", default=())


class ExtCfgNode(CfgNode):
    """detectron2's `CfgNode` with safe yaml and errors that name the most similar known key."""

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        """Merge a yaml file and its `_BASE_` files.

        Args:
            cfg_filename: path of the yaml.
            allow_unsafe: run Python code that tags in the yaml name. This is detectron2's default;
                by default, this class refuses such a file.

        Raises:
            UserError: the file is missing, is not yaml, holds a python tag, an unknown key, or a
                value of the wrong type.
        """
        if not PathManager.isfile(cfg_filename):
            raise UserError(f"config file not found: {cfg_filename} (looked from {os.getcwd()})")
        if str(cfg_filename).endswith(".py"):
            raise UserError(f"{cfg_filename}: expected a yaml file. {_NO_LAZY_CONFIG}")
        with _explain_yaml(self, cfg_filename), _keep_values(self):
            super().merge_from_file(cfg_filename, allow_unsafe=allow_unsafe)
        publish_class_names(self)

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        """See :meth:`CfgNode.load_yaml_with_base`.

        Raises:
            UserError: a `_BASE_` leads back to a file that names it.
        """
        path, before = os.path.realpath(filename), _FILES_BEING_READ.get()
        if path in before:
            names = [os.path.basename(name) for name in (*before[before.index(path) :], path)]
            raise UserError(
                f"{filename}: its _BASE_ leads back to it: {' -> '.join(names)}. Remove one of "
                "these _BASE_ lines"
            )
        token = _FILES_BEING_READ.set((*before, path))
        try:
            loaded: dict[str, Any] = super().load_yaml_with_base(filename, allow_unsafe)
            return loaded
        finally:
            _FILES_BEING_READ.reset(token)

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[str]:
        with super()._open_cfg(filename) as file:
            text = file.read()
        check_text(text, filename)
        return io.StringIO(text)

    def merge_from_text(self, text: str, source: str) -> None:
        """Merge the yaml text of a whole config from an unknown author.

        No other file is read: `_BASE_` is refused.

        Args:
            text: the result of `dump_text`.
            source: the origin of the text, for error messages.

        Raises:
            UserError: see `merge_from_file`.
        """
        with _explain_yaml(self, source), _keep_values(self):
            loaded = LoaderWithoutAliases(text).get_single_data()
            if not isinstance(loaded, dict):
                raise UserError(f"{source}: expected keys and values, got {shorten(loaded)!r}")
            self.merge_from_other_cfg(type(self)(loaded))
        publish_class_names(self)

    def dump_text(self) -> str:
        """Return the config as yaml text that `merge_from_text` reads."""
        plain = yaml.safe_load(self.dump())
        return yaml.dump(plain, Dumper=DumperWithoutAliases)

    def merge_from_other_cfg(self, cfg_other: CfgNode) -> None:
        """Merge a config, which may contain names of earlier versions, see `old_names`."""
        _adopt_nodes(self)
        super().merge_from_other_cfg(move_old_nodes(self, cfg_other))
        rename_old_parts(self)

    def merge_from_list(self, cfg_list: Sequence[str]) -> None:
        """Merge `[KEY, VALUE, KEY, VALUE, ...]` from a command line.

        If a key holds text, its value is read as text even if it looks like a number, such as
        `OUTPUT_DIR 2024` or `DATASETS.TRAIN "(2024,)"`.

        Raises:
            UserError: an odd number of words, an unknown key, or a value of the wrong type.
        """
        _require_pairs(cfg_list)
        with _explain_yaml(self, "command line"), _keep_values(self):
            for key, value in zip(cfg_list[::2], cfg_list[1::2], strict=True):
                self._merge_pair(rename_old_key(self, key), value)
        rename_old_parts(self)

    def _merge_pair(self, key: str, value: Any) -> None:
        try:
            super().merge_from_list([key, _keep_text(self, key, value)])
        except (KeyError, ValueError, AssertionError, TypeError, AttributeError) as error:
            found = error
            if key not in set(_walk_keys(self)):  # yacs fails in other ways below a value
                found = KeyError(f"Non-existent key: {key}")
            raise _explain(self, found, "command line", key) from error


_PLAIN_NODES = (CfgNode, fvcore.common.config.CfgNode, yacs.config.CfgNode)


def _adopt_nodes(cfg: CfgNode) -> None:
    """Give the plain nodes of `cfg` its class: yacs merges no others.

    A project declares its nodes as for detectron2's config, `cfg.MODEL.MINE = CfgNode()`.
    """
    for node in cfg.values():
        if isinstance(node, yacs.config.CfgNode):
            if type(node) in _PLAIN_NODES:
                object.__setattr__(node, "__class__", type(cfg))
            _adopt_nodes(node)


def _require_pairs(words: Sequence[Any]) -> None:
    """Raise unless the words of a command line can be pairs of a key and a value."""
    for before, word in itertools.pairwise(words):
        if str(word).startswith("--"):
            raise UserError(
                f"{word} stands after {before!r}, where only KEY VALUE pairs may be. Options come "
                "first, and --config-file comes before the name of a config"
            )
    if any("=" in str(key) for key in words[::2]):
        raise UserError(f"expected KEY VALUE with a space between them, got {' '.join(words)!r}")
    if len(words) % 2:
        raise UserError(
            "expected KEY VALUE pairs after the options, got "
            f"{len(words)} word(s): {' '.join(words)!r}"
        )


@contextlib.contextmanager
def _explain_yaml(cfg: CfgNode, source: str) -> Iterator[None]:
    """Turn the errors of reading and merging yaml into a `UserError` that names its source."""
    try:
        yield
    except UserError:
        raise
    except yaml.constructor.ConstructorError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "unknown"
        raise UserError(
            f"{source}: refused, since {error.problem} (line {line}); a config "
            "contains only plain values. Remove the tag."
        ) from error
    except yaml.YAMLError as error:
        raise UserError(f"{source}: not a yaml file: {error}") from error
    except RecursionError as error:
        raise UserError(f"{source}: nested too deeply") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: not a yaml file: {error}. Save it as UTF-8") from error
    except (OSError, KeyError, ValueError, AssertionError, TypeError, AttributeError) as error:
        raise _explain(cfg, error, source) from error


# What yacs says of a value that has another type than the default.
_MISMATCH = re.compile(
    r"Type mismatch \(<class '[^']*'> vs\. <class '(?P<new>[^']*)'>\) with values "
    r"\((?P<values>.*)\) for config key: (?P<key>\S+)",
    re.DOTALL,
)

# Lists of text with an empty default, which does not show the type of their items.
_TEXTS = ("TRAIN", "TEST", "PROPOSAL_FILES_TRAIN", "PROPOSAL_FILES_TEST")
_TEXT_LISTS = {f"DATASETS.{key}" for key in _TEXTS} | {
    f"MASK_RCNN_EXT.{key}" for key in ("CLASS_NAMES", "EVALUATORS", "FREEZE")
}

# Keys that may be None though they hold numbers. The parameters then have SOLVER.WEIGHT_DECAY.
MAY_BE_NOTHING = {"SOLVER.WEIGHT_DECAY_NORM", "SOLVER.WEIGHT_DECAY_BIAS"}


@contextlib.contextmanager
def _keep_values(cfg: CfgNode) -> Iterator[None]:
    """Refuse values that yacs accepts by mistake: an empty value, and items of another type.

    An empty value of a key that holds text is empty text, as in `WEIGHTS:` without a path.
    """
    before = dict(flat_config(cfg))
    yield
    for key, value in list(flat_config(cfg)):
        if key in MAY_BE_NOTHING:
            continue
        if value is None and isinstance(before.get(key), str):
            *parents, name = key.split(".")
            functools.reduce(operator.getitem, parents, cfg)[name] = ""
        elif value is None and isinstance(before.get(key), bool | int | float | list | tuple):
            raise ValueError(f"{key}: expected a value such as {before[key]!r}, got nothing")
    _require_items(cfg)


def _require_items(cfg: CfgNode) -> None:
    """Check lists with an empty default: yacs cannot compare the types of their items."""
    for key, values in flat_config(cfg):
        if key in _TEXT_LISTS:
            for item in values:
                if not isinstance(item, str):
                    raise ValueError(
                        f"{key}: expected a list of text, got {shorten(repr(item))}. Put text that "
                        "looks like a number into quotes"
                    )
        if key in ("DATASETS.TRAIN", "DATASETS.TEST") and "" in values:
            raise ValueError(f"{key}: expected names of data sets, got ''")
        if key == "MASK_RCNN_EXT.CATEGORY_IDS" and not all(isinstance(i, int) for i in values):
            raise ValueError(f"{key}: expected a list of whole numbers, got {shorten(values)}")


def _keep_text(cfg: CfgNode, key: str, value: Any) -> Any:
    """Return a value of a command line in a form that yacs reads as text, if the key holds text."""
    if not isinstance(value, str):
        return value
    default = dict(flat_config(cfg)).get(key)
    try:
        tree = ast.parse(value, mode="eval").body
    except (SyntaxError, ValueError):
        return value  # yacs takes it as text too
    if isinstance(default, str):
        quoted = isinstance(tree, ast.Constant) and isinstance(tree.value, str)
        return value if quoted else repr(value)
    if not (isinstance(default, list | tuple) and isinstance(tree, ast.Tuple | ast.List)):
        return value
    if key in _TEXT_LISTS or (default and all(isinstance(item, str) for item in default)):
        return [
            item.value
            if isinstance(item, ast.Constant) and isinstance(item.value, str)
            else ast.get_source_segment(value, item)
            for item in tree.elts
        ]
    return value


def require_config_node(cfg: Any) -> None:
    """Raise a `UserError` if a config is of another kind, such as a LazyConfig."""
    if not isinstance(cfg, CfgNode):
        raise UserError(
            f"expected a config as get_cfg() returns it, a CfgNode, got a {type(cfg).__name__}. "
            f"load_config(path) reads a yaml. {_NO_LAZY_CONFIG}"
        )


def flat_config(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (key with dots, value) of every value, in the order of the config."""
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from flat_config(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


class _NamesOfConfig(Metadata):
    """The class names of a config; a data set that is registered later replaces them."""

    def __setattr__(self, key: str, value: Any) -> None:
        self.__dict__[key] = value  # `Metadata` refuses a change of a value


def publish_class_names(cfg: CfgNode) -> None:
    """Put the config's class names into detectron2's catalog, where detectron2's tools read them.

    Registered data sets do not change. Names from another config are replaced; names from any other
    source stay.
    """
    names = list(cfg.get("MASK_RCNN_EXT", {}).get("CLASS_NAMES", []))
    if not names:
        return
    ids = list(cfg.MASK_RCNN_EXT.CATEGORY_IDS)
    for dataset in {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST} - set(DatasetCatalog):
        metadata = MetadataCatalog.get(dataset)
        if metadata.get("thing_classes") and not isinstance(metadata, _NamesOfConfig):
            continue
        metadata = _NamesOfConfig(name=dataset, thing_classes=names)
        if ids:
            indices = {key: index for index, key in enumerate(ids)}
            metadata.set(thing_dataset_id_to_contiguous_id=indices)
        MetadataCatalog[dataset] = metadata


def _walk_keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from _walk_keys(value, f"{prefix}{key}.")


def _ends_alike(key: str, other: str) -> bool:
    """Return whether the last parts of two keys are similar, or one has all words of the other.

    Whole keys are similar already if they are in the same node.
    """
    end, other_end = (name.rpartition(".")[2].upper() for name in (key, other))
    words, others = set(end.split("_")), set(other_end.split("_"))
    same = words <= others or others <= words
    return same or difflib.SequenceMatcher(None, end, other_end).ratio() >= 0.6


def _explain(cfg: CfgNode, error: Exception, source: str, key: str | None = None) -> UserError:
    """Turn an exception of yacs or fvcore into a line with the file, the key, and a similar key."""
    message = str(error if isinstance(error, OSError) or not error.args else error.args[0])
    # yacs says "Non-existent config key: X" for a file, "Non-existent key: X" for a list.
    if "on-existent" in message:
        # A command line gives values only; in a file, the name of a node may be wrong.
        known = [name for name, _ in flat_config(cfg)] if key else list(_walk_keys(cfg))
        key = key or message.rsplit(":", 1)[-1].strip()
        alike = [name for name in known if _ends_alike(key, name)]
        return UserError(f"{source}: unknown config key {key!r}{nearest(key, alike)}")
    if digits := re.search(r"value has (\d+) digits", message):  # Python's advice does not help
        message = f"it has a number of {digits.group(1)} digits, which no key takes"
    if mismatch := _MISMATCH.search(message):
        return UserError(f"{source}: {_explain_mismatch(cfg, mismatch)}")
    return UserError(f"{source}: {f'{key}: ' if key else ''}{shorten(message, 500)}")


def _explain_mismatch(cfg: CfgNode, mismatch: re.Match[str]) -> str:
    """Return the sentence about a value of the wrong type, from the message of yacs."""
    values, key = mismatch["values"], mismatch["key"]
    default: Any = cfg
    for name in key.split("."):
        default = default[name]
    got = values.removeprefix(f"{default} vs. ").strip()
    if mismatch["new"].endswith("CfgNode"):
        got = "keys of its own"
    elif mismatch["new"].endswith("NoneType"):
        got = "nothing"
    if isinstance(default, CfgNode):
        return explain_group(key, next(iter(default), ""), got)
    hint = ""
    if isinstance(default, float) and mismatch["new"] == "int":
        hint = ". Write whole numbers with a point there, such as 2.0"
    elif isinstance(default, str) and mismatch["new"] in ("int", "float"):
        hint = ". Put text that looks like a number into quotes"
    expected = "text" if default == "" else f"a value such as {default!r}"
    return f"{key}: expected {expected}, got {shorten(got, 200)}{hint}"
