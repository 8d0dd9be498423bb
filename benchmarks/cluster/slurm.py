"""A Slurm of one controller and two nodes on this machine, in a temporary folder, and with its own keys and ports.

As root each node is a host of its own on a small network (a network namespace), so that it can be cut off. Slurm comes
from where it is installed, else from the distribution's packages, unpacked into the folder: nothing is installed.
So do slurmdbd and MariaDB, which keep its accounting.
"""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.cluster import accounting, packages
from benchmarks.cluster.network import Network

CONF = """\
ClusterName=reeltest
SlurmctldHost={host}({controller})
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=10
CredType=cred/munge
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=5
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
KillWait=10
MinJobAge=900
SlurmdTimeout=30
SlurmctldTimeout=60
{accounting}
JobAcctGatherType=jobacct_gather/linux
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
{plugins}
NodeName=n1 NodeHostname={host} NodeAddr={first} Port={port1} CPUs=2 RealMemory=2000 Gres=gpu:1
NodeName=n2 NodeHostname={host} NodeAddr={second} Port={port2} CPUs=2 RealMemory=2000 Gres=gpu:1
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=high Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF
"""
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged")
PACKAGES = ("slurm-wlm", "munge")


def _ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class Cluster:
    """Slurm's daemons, all of them ours."""

    def __init__(self, folder: Path, network: Network | None) -> None:
        self.folder, self.network = folder, network
        folder.mkdir(mode=0o755)
        if not packages.are_here(NEEDED, folder.parent):
            packages.fetch(folder.parent, PACKAGES)
        self.no_accounting = accounting.lack(folder.parent)
        unpacked = packages.variables(folder.parent)
        self.environment = {**os.environ, **unpacked, "SLURM_CONF": str(folder / "slurm.conf")}
        self._accounting: list[int] = []
        self._daemons: list[subprocess.Popen[bytes]] = []

    def _start(self, *words: str) -> None:
        log = (self.folder / "daemons.log").open("ab")
        self._daemons.append(subprocess.Popen(words, env=self.environment, stdout=log, stderr=log))

    def _munge(self) -> None:
        folder = self.folder / "munge"
        folder.mkdir(mode=0o755)
        (folder / "key").write_bytes(os.urandom(1024))
        (folder / "key").chmod(0o400)
        places = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        words = [f"--{name}={folder / place}" for name, place in places.items()]
        self._start("munged", "--foreground", "--force", "--num-threads=2", *words)

    def _configure(self) -> None:
        port, port1, port2, *self._accounting = _ports(5)
        addresses = self.network.addresses if self.network else ("127.0.0.1",) * 3
        text = CONF.format(
            host=socket.gethostname(),
            controller=addresses[0],
            first=addresses[1],
            second=addresses[2],
            user=_user(),
            folder=self.folder,
            port=port,
            port1=port1,
            port2=port2,
            plugins=packages.plugins(self.folder.parent),
            accounting=accounting.NONE if self.no_accounting else accounting.lines(self.folder, self._accounting[0]),
        )
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text(
            "Name=gpu File=/dev/null\n"
        )  # to be asked for; no job of ours runs on it

    def start(self) -> None:
        """All daemons, until both nodes are idle."""
        self._configure()
        self._munge()
        (self.folder / "state").mkdir()
        until = time.monotonic() + 20
        while not (self.folder / "munge" / "socket").exists() and time.monotonic() < until:
            time.sleep(0.1)
        if not self.no_accounting:
            store = (self._accounting[0], self._accounting[1])
            accounting.start(self.folder, _user(), store, self._start, self.say)
        self._start("slurmctld", "-D")
        stepd = packages.place(self.folder.parent) / "usr" / "sbin" / "slurmstepd"
        for number in (1, 2):
            (self.folder / f"n{number}").mkdir()
            inside = self.network.inside(number) if self.network else []
            self._start(*inside, "slurmd", "-D", "-N", f"n{number}", *(["-d", str(stepd)] if stepd.is_file() else []))
        self.wait_for(lambda: self.say("sinfo", "-h", "-o", "%T") == "idle", "the nodes", 60)

    def say(self, *words: str) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    def wait_for(self, is_so: "object", what: str, seconds: float) -> None:
        """Until it is so.

        Raises:
            RuntimeError: it is not, so long.
        """
        until = time.monotonic() + seconds
        while not is_so():  # type: ignore[operator]
            if time.monotonic() > until:
                raise RuntimeError(f"waited {seconds:g} s for {what}; logs in {self.folder}")
            time.sleep(0.2)

    def stop(self) -> None:
        """End every job, then every daemon."""
        with contextlib.suppress(OSError):
            subprocess.run(["scancel", "-u", _user()], env=self.environment, capture_output=True, check=False)
            time.sleep(2)
        _end_below(self.folder.parent)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
            if daemon.poll() is None:
                daemon.kill()


def _end_below(folder: Path) -> None:
    """End what a failed test has left: whatever works in a folder of ours."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if Path(process.cwd()).is_relative_to(folder) and process.pid != os.getpid():
                process.kill()


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


@contextlib.contextmanager
def running(folder: Path, network: Network | None) -> Iterator[Cluster]:
    """A Slurm that is stopped at the end."""
    cluster = Cluster(folder, network)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
