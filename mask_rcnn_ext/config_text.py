"""Checks the text of a yaml before it becomes a config, and reads and writes it without aliases."""

from typing import Any

import yaml

from .errors import UserError, shorten

__all__ = [
    "DumperWithoutAliases",
    "LoaderWithoutAliases",
    "check_text",
    "explain_group",
]

_TEXT = "tag:yaml.org,2002:str"
_MOST_VALUES = 100_000  # of a yaml file, with all aliases written out


class LoaderWithoutAliases(yaml.SafeLoader):
    """Reads plain values. It refuses aliases: with these, a short text can mean a huge value."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """See PyYAML."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*)")
        return super().compose_node(parent, index)


class DumperWithoutAliases(yaml.SafeDumper):
    """Writes equal values twice, without an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        """Return True."""
        return True


def check_text(text: str, source: str) -> None:
    """Check the text of a yaml.

    Raises:
        UserError: the text is not made of keys and values, has a key twice in one place, or has
            aliases that stand for a huge tree, or for one that contains itself.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if "&" in text and "*" in text:
        _require_few_values(root, source)
    _require_keys(root, source)
    _require_unique_keys(root, source)


def _require_few_values(root: yaml.Node | None, source: str) -> None:
    """Refuse a yaml if its aliases stand for a huge tree, or for a tree that contains itself."""
    sizes: dict[int, int] = {}

    def count(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = -1  # being counted
            parts = node.value if isinstance(node, yaml.CollectionNode) else []
            pairs = [part if isinstance(part, tuple) else (part,) for part in parts]
            sizes[id(node)] = 1 + sum(count(child) for pair in pairs for child in pair)
        elif sizes[id(node)] < 0:
            raise UserError(f"{source}: an alias (*) stands for a value that contains the alias")
        return sizes[id(node)]

    total = count(root) if root is not None else 0
    if total > _MOST_VALUES:
        raise UserError(
            f"{source}: its aliases (*) stand for {total:,} values, at most {_MOST_VALUES:,} are "
            "read. Write them out"
        )


def _require_keys(root: yaml.Node | None, source: str) -> None:
    """Refuse a yaml that is not made of keys and values; detectron2 looks into it unchecked."""
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{source}: expected keys and values, got {_show(root)}")
    for key, value in root.value:
        if key.value == "MODEL" and not isinstance(value, yaml.MappingNode):
            raise UserError(f"{source}: {explain_group('MODEL', 'WEIGHTS', _show(value))}")
        paths = value.value if isinstance(value, yaml.SequenceNode) else [value]
        if key.value == "_BASE_" and not all(path.tag == _TEXT for path in paths):
            raise UserError(f"{source}: _BASE_: expected the path of a file, got {_show(value)}")
    groups = [root]
    while groups:
        for key, value in groups.pop().value:
            if key.tag.endswith((":int", ":float", ":bool", ":null")):
                line = key.start_mark.line + 1
                raise UserError(
                    f"{source}: expected the name of a key, got {key.value!r} (line {line})"
                )
            if isinstance(value, yaml.MappingNode):
                groups.append(value)


def _require_unique_keys(root: yaml.Node | None, source: str) -> None:
    """Refuse a yaml with a key twice in one place: PyYAML would drop the first of the values."""
    nodes, known = [root], set[int]()
    while nodes:
        node = nodes.pop()
        if id(node) in known or not isinstance(node, yaml.CollectionNode):
            continue
        known.add(id(node))  # an alias stands for the same node
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        nodes += [value for _, value in pairs] or node.value
        names = [key for key, _ in pairs if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        keys = set()
        for name in names:
            if name.value in keys:
                raise UserError(
                    f"{source}: line {name.start_mark.line + 1} has the key "
                    f"{shorten(name.value)!r} a second time, and only its last value would count. "
                    "Put all values under one key, or remove one of the lines"
                )
            keys.add(name.value)


def _show(node: yaml.Node | None) -> str:
    """Return a value of a yaml as its text, or "a list" or "a group of keys"."""
    if isinstance(node, yaml.ScalarNode):
        return shorten(node.value) or "nothing"
    if node is None:
        return "nothing"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a group of keys"


def explain_group(key: str, inside: str, got: str) -> str:
    """Return the sentence about a group of keys that was given a value."""
    example = f", such as {key}.{inside}" if inside else ""
    return f"{key}: expected values for the keys in this group{example}, got {shorten(got)}"
