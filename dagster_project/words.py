"""The words that commands of `reel` take, where a module of their own does not say them."""

import argparse

from dagster_dvc.command import count, port


def none(sub: argparse.ArgumentParser) -> None:
    """Of a command that takes no words."""


def ui_words(sub: argparse.ArgumentParser) -> None:
    """Of `reel ui`."""
    sub.add_argument("--port", type=port, default=3000)
    sub.add_argument("--token", action="store_true", help="on a machine with other users: let in only who has a token")


def lineage_words(sub: argparse.ArgumentParser) -> None:
    """Of `reel lineage`."""
    sub.add_argument("what", help="a path, a stage, or the first characters of a content hash that DVC knows")
    sub.add_argument("rest", nargs=argparse.REMAINDER, help="of a path or stage: --all, --json, --svg FILE")


def jobs_word(sub: argparse.ArgumentParser) -> None:
    """How many stages run side by side."""
    sub.add_argument("--jobs", type=count, metavar="N", help="stages at once (REEL_JOBS, else 2)")


def stage_words(sub: argparse.ArgumentParser) -> None:
    """Of `reel plan` and `reel run`: which stages."""
    sub.add_argument("stage", nargs="*", help="a stage, group:NAME, NAME+ (with what follows), or a pattern")
    sub.add_argument("--all", action="store_true", help="the whole graph")
    jobs_word(sub)


def run_words(sub: argparse.ArgumentParser) -> None:
    """Of `reel run`: which stages, and how."""
    stage_words(sub)
    sub.add_argument("--keep-going", action="store_true", help="after a failure, run what does not depend on it")
    sub.add_argument("--pull", action="store_true", help="take what the DVC remote has, compute the rest")
    how = sub.add_mutually_exclusive_group()
    how.add_argument(
        "--force", action="store_true", help="run the named stages even if nothing changed, trained from nothing"
    )
    how.add_argument(
        "--continue",
        dest="carry_on",
        action="store_true",
        help="of the named stages, go on from a state that other code, or a run of another length, has left",
    )
