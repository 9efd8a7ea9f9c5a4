"""HTML pages made from a template that comes with the package.

Promises: each ``{{name}}`` of the template becomes the value of that name, as it stands, so whoever makes a value has
escaped it; nothing inside a value is taken for a name. A name without a value is a KeyError.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources


def fill(package: str, file: str, values: Mapping[str, str]) -> str:
    """The template `file` beside the modules of `package`, with `values`."""
    template = (resources.files(package) / file).read_text(encoding="utf-8")
    first, *rest = template.split("{{")
    return first + "".join(values[name] + text for name, text in (piece.split("}}", 1) for piece in rest))
