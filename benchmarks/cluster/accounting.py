"""Slurm's accounting: slurmdbd on a MariaDB of its own, in the cluster's folder, on loopback."""

import contextlib
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.cluster import packages

NEEDED = ("slurmdbd", "mariadbd", "mariadb-install-db")
PACKAGES = ("slurmdbd", "slurm-wlm-mysql-plugin", "mariadb-server")
NONE = "AccountingStorageType=accounting_storage/none"
CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={store}
StorageUser=reel
StoragePass={password}
StorageLoc=reelacct
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
{plugins}
"""
PATIENCE = 60.0


def lack(folder: Path) -> str:
    """Why there is no accounting; empty where its programs are installed, or could be fetched."""
    if packages.are_here(NEEDED, folder):
        return ""
    try:
        packages.fetch(folder, PACKAGES)
    except packages.NotFetched as error:
        return f"slurmdbd and MariaDB are not installed, and cannot be fetched: {error}"
    return "" if packages.are_here(NEEDED, folder) else "slurmdbd and MariaDB are not in the packages of this system"


def lines(folder: Path, port: int) -> str:
    """What slurm.conf says of it."""
    return (
        f"AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\n"
        f"AccountingStoragePort={port}\nAccountingStoragePass={folder}/munge/socket\nJobAcctGatherFrequency=1"
    )


def start(folder: Path, user: str, ports: tuple[int, int], run: Callable[..., None], say: Callable[..., str]) -> None:
    """Both daemons, until they answer. ``run`` starts a daemon, ``say`` runs a command and returns what it prints.

    Raises:
        RuntimeError: one does not come up.
    """
    port, store = ports
    data, password = folder / "mariadb", secrets.token_hex(16)
    unpacked = packages.place(folder.parent) / "usr"
    common = ["--no-defaults", f"--datadir={data}", f"--user={user}"]
    common += [f"--basedir={unpacked}"] if (unpacked / "sbin" / "mariadbd").is_file() else []
    say("mariadb-install-db", *common, "--skip-test-db")
    first = folder / "mariadb.sql"
    first.touch(mode=0o600)
    first.write_text(
        f"CREATE USER 'reel'@'127.0.0.1' IDENTIFIED BY '{password}';\n"
        "GRANT ALL ON reelacct.* TO 'reel'@'127.0.0.1';\n"
    )  # fmt: skip
    run(
        "mariadbd", *common, f"--socket={data}/socket", "--bind-address=127.0.0.1", f"--port={store}",
        f"--init-file={first}", f"--pid-file={data}/pid",
    )  # fmt: skip
    _answers(store, "MariaDB")
    conf = folder / "slurmdbd.conf"
    conf.touch(mode=0o600)  # slurmdbd reads no other: it holds the password
    facts = {"folder": folder, "host": socket.gethostname(), "user": user, "plugins": packages.plugins(folder.parent)}
    conf.write_text(CONF.format(port=port, store=store, password=password, **facts))
    run("slurmdbd", "-D")
    _answers(port, "slurmdbd")


def _answers(port: int, what: str) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    raise RuntimeError(f"{what} does not come up at port {port} within {PATIENCE:g} s")
