"""Mappings in YAML files that anybody may have written: numbers read as such, no key given twice.

What a file says is data and nothing else; one that is too large, too deep, or repeats itself
without measure is refused before it takes the memory.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from es_rl.options import ConfigError, shown

__all__ = ["read_mapping"]

_MAX_BYTES = 1 << 22  # of a file
_MAX_VALUES = 1_000_000  # in a file, each counted as often as it is referred to


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 3e-5 as a number, as YAML 1.2 does, and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping, or raise if a key stands in it twice."""
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is not a word", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} stands there twice", key_node.start_mark
                )
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


_Loader.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def read_mapping(path: Path, source: str) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; empty if there is nothing in the file.

    Args:
        path: the file.
        source: what errors call it.

    Raises:
        ConfigError: if it cannot be read, is no YAML, or says something else than a mapping.
    """
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{source}: cannot be read: is not a file")
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{source}: is too large for a configuration, or is none")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{source}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ConfigError(f"{source}: cannot be read: {reason}") from None
    try:
        content = _load_yaml(text)
    except RecursionError:
        raise ConfigError(f"{source}: not valid YAML: nested too deeply") from None
    # PyYAML lets what int(), float() and the like raise pass through
    except (yaml.YAMLError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"{source}: not valid YAML: {shown(error)}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{source}: must hold 'option: value' lines")
    return content


def _load_yaml(text: str) -> Any:
    """Return what YAML `text` says.

    Raises:
        yaml.YAMLError, ValueError and the like: if it is not valid, or its aliases repeat its
            values without measure.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _n_values(node, {}) > _MAX_VALUES:
            raise ValueError(f"more than {_MAX_VALUES:,} values")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _n_values(node: yaml.Node, known: dict[int, float]) -> float:
    """Return how many values `node` stands for, aliases written out; infinite if it holds itself.

    Args:
        node: of a document.
        known: results by the identity of their nodes; filled.
    """
    if id(node) not in known:
        known[id(node)] = math.inf  # what an alias to an ancestor finds
        children = node.value if isinstance(node, yaml.CollectionNode) else ()
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in children for part in pair]
        known[id(node)] = 1 + sum(_n_values(child, known) for child in children)
    return known[id(node)]
