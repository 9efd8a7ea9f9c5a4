"""YAML as people write it for us: one value for each key.

Promises: what cannot be read, or names a key of one mapping twice, is a `ConfigError` with its line. PyYAML by itself
keeps the last of two, so that a second section would take the first one's keys away without a word.
"""

from __future__ import annotations

from typing import Any

import yaml

from actors.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Looks at keys while mappings are put together: later those of ``<<`` stand among them."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"{key.value!r} stands there twice"
                    raise yaml.MarkedYAMLError("while reading a mapping", node.start_mark, problem, key.start_mark)
                seen.add(key.value)
        return node


def read_yaml(text: str, source: str) -> Any:
    """The data in `text`; ConfigError, which names `source` and the line, if it cannot be read."""
    try:
        return yaml.load(text, _Loader)  # nosec B506 # it is a safe loader
    except RecursionError as error:
        raise ConfigError(f"{source} is not valid YAML: it is nested too deeply.") from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:  # the others: PyYAML's, of wrong values
        said = str(error).replace('"<unicode string>", ', "")  # what PyYAML calls a text that it was handed
        said = (
            said
            if isinstance(error, yaml.YAMLError | ValueError)
            else f"a value is not of the type of its tag ({said})"
        )
        raise ConfigError(f"{source} is not valid YAML: {said}") from error
