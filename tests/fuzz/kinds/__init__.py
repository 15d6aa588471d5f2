"""The kinds of files that users give, by their names in `results/fuzz.json`."""

from fuzz.kinds.configs import YamlConfig
from fuzz.kinds.images import ImageFile
from fuzz.kinds.json_files import CocoJson, ResultJson
from fuzz.kinds.kind import Kind
from fuzz.kinds.pickles import Checkpoint, Proposals

__all__ = ["KINDS", "Kind"]

KINDS: dict[str, type[Kind]] = {
    "annotations": CocoJson,
    "results": ResultJson,
    "configs": YamlConfig,
    "proposals": Proposals,
    "checkpoints": Checkpoint,
    "images": ImageFile,
}
