"""The distribution's packages, downloaded and unpacked into a folder where their programs are not installed here."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

LIBRARIES = f"usr/lib/{platform.machine()}-linux-gnu"
PLUGINS = f"{LIBRARIES}/slurm-wlm"
"""Where Debian puts Slurm's plugins; some may be installed while the rest is unpacked."""


def place(folder: Path) -> Path:
    """What is unpacked for a cluster in this folder lies here, as if it were ``/``."""
    return folder / "packages"


class NotFetched(RuntimeError):
    """The distribution's packages cannot be had, and why."""


def fetch(folder: Path, names: Sequence[str]) -> None:
    """Unpack these packages, with those that they need and that are not installed; nothing is installed.

    Raises:
        NotFetched: there is no apt, or it does not know or does not get them, in its own words.
    """
    root = place(folder)
    root.mkdir(exist_ok=True)
    wanted = re.findall(
        r"^Inst (\S+)", _said(["apt-get", "--simulate", "--no-install-recommends", "install", *names]), re.M
    )
    print(f"fetches {len(wanted)} Debian packages for {', '.join(names)} into {root}", flush=True)
    options = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
    _said(["apt-get", *options, "download", *wanted], root)
    for package in root.glob("*.deb"):
        _said(["dpkg", "-x", package.name, "."], root)
        package.unlink()
    name_programs(root / "usr")


def _said(words: Sequence[str], cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NotFetched(f"{words[0]}: {error.strerror}") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit {done.returncode}").splitlines()
        raise NotFetched(f"{' '.join(words[:2])}: {said[-1]}")
    return done.stdout


def name_programs(usr: Path) -> None:
    """Give unpacked programs the names that installing would: Debian makes ``slurmd`` of ``slurmd-wlm``."""
    for program in (*usr.glob("bin/*-wlm"), *usr.glob("sbin/*-wlm")):
        plain = program.with_name(program.name.removesuffix("-wlm"))
        if not plain.exists():
            plain.symlink_to(program.name)


def are_here(programs: Sequence[str], folder: Path) -> bool:
    """Whether these programs are installed or unpacked."""
    path = variables(folder).get("PATH")
    return all(shutil.which(name, path=path) for name in programs)


def variables(folder: Path) -> dict[str, str]:
    """Under these the unpacked programs are found; none where nothing is unpacked."""
    root = place(folder)
    if not root.is_dir():
        return {}
    libraries = [str(root / LIBRARIES), str(root / PLUGINS), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    found = [str(root / "usr" / part) for part in ("bin", "sbin")]
    return {
        "PATH": os.pathsep.join([*found, os.environ["PATH"]]),
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
    }


def plugins(folder: Path) -> str:
    """Slurm's line that names where its plugins are; empty where all of it is installed."""
    root = place(folder)
    places = [one for one in (root / PLUGINS, Path("/") / PLUGINS) if one.is_dir()]  # Slurm refuses others
    return f"PluginDir={':'.join(map(str, places))}" if root.is_dir() else ""
