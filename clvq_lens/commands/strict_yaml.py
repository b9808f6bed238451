"""YAML as people mean it: no objects, no key twice, and 1e-3 is a number."""

import re

import yaml

from clvq_lens.errors import ConfigError

_MERGE = "tag:yaml.org,2002:merge"


class StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which makes plain values only, and refuses a key that is there twice.

    Raises:
        ConfigError: If a key is there twice, or is no text.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """The keys and values of a mapping."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:  # <<, whose keys may be written again
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise ConfigError(f"The key {key!r} in line {line} is no text. Put it in quotes.")
            if key in seen:
                raise ConfigError(
                    f"The key {key!r} is there twice, the second time in line {line}. Leave one of "
                    f"them out."
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1, which PyYAML reads, takes 1e-3 for a text: it asks for a dot.
StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)
