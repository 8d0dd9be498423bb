"""Files that people write, read as DVC reads them: YAML 1.2 by ruamel (``on`` is a word, ``010`` is ten).

dvc.lock, which DVC itself writes, goes through the faster loader of :mod:`dagster_dvc.lock`.
"""

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

__all__ = ["YAMLError", "load"]


def load(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        YAMLError: it is no YAML. ValueError: a date in it does not exist.
    """
    return YAML(typ="safe").load(text)
