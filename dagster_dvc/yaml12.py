"""Files that people write, read as DVC reads them: YAML 1.2 by ruamel (``on`` is a word, ``010`` is ten).

dvc.lock, which DVC itself writes, goes through the faster loader of :mod:`dagster_dvc.lock_file`.
"""

from typing import Any


class NotYamlError(ValueError):
    """A text that is no YAML."""


def load(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        NotYamlError: it is no YAML. ValueError: a date in it does not exist.
    """
    from ruamel.yaml import YAML  # here: most commands read no such file
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe").load(text)
    except YAMLError as error:
        raise NotYamlError(str(error)) from error
