"""What the commands of this package and of projects on top of it have in common."""

import argparse
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


def port(word: str) -> int:
    """A word of a command as a port that a server can be found at, for argparse."""
    if not word.isdecimal() or not 0 < int(word) < 2**16:
        raise argparse.ArgumentTypeError(f"{word!r} is no port; write a whole number from 1 to {2**16 - 1}")
    return int(word)


def count(word: str) -> int:
    """A word of a command as a whole number of at least 1, for argparse."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is no whole number of at least 1")
    return int(word)
