"""What the commands of this package and of projects on top of it have in common."""

import sys
from collections.abc import Callable

from dagster_dvc.problem import ProjectError


def exit_status(action: Callable[[], int]) -> int:
    """The exit status of a command: its own; 1 after a `ProjectError`, which is told in its words; 130 after ctrl-C."""
    try:
        return action()
    except ProjectError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
