"""Two hosts on this machine: network namespaces on a bridge, one of which can be cut off. For root only."""

import contextlib
import os
import subprocess
from collections.abc import Iterator

NET = "10.213.77"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Network:
    """A bridge with an address of its own (of the controller) and two namespaces behind it."""

    def __init__(self) -> None:
        self.mark = f"reel{os.getpid() % 100000}"
        self.addresses = (f"{NET}.1", f"{NET}.11", f"{NET}.12")

    def up(self) -> None:
        """Make it."""
        _ip("link", "add", self.mark, "type", "bridge")
        _ip("addr", "add", f"{NET}.1/24", "dev", self.mark)
        _ip("link", "set", self.mark, "up")
        for number in (1, 2):
            name, wire = f"{self.mark}n{number}", f"{self.mark}v{number}"
            _ip("netns", "add", name)
            _ip("link", "add", wire, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", wire, "master", self.mark, "up")
            _ip("-n", name, "addr", "add", f"{self.addresses[number]}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip("-n", name, "link", "set", device, "up")
            _ip("-n", name, "route", "add", "default", "via", f"{NET}.1")

    def inside(self, number: int) -> list[str]:
        """Words before a command that is to run on host 1 or 2."""
        return ["nsenter", f"--net=/run/netns/{self.mark}n{number}"]  # `ip netns exec` would hide /sys/fs/cgroup

    def cut(self, number: int, is_off: bool = True) -> None:
        """Pull a host's cable, or plug it in again."""
        _ip("link", "set", f"{self.mark}v{number}", "down" if is_off else "up")

    def down(self) -> None:
        """Remove what is there of it; a namespace lives as long as a process in it, its wire does not."""
        wires = [("link", "del", f"{self.mark}v{number}") for number in (1, 2)]
        hosts = [("netns", "del", f"{self.mark}n{number}") for number in (1, 2)]
        for words in (*wires, *hosts, ("link", "del", self.mark)):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip(*words)


@contextlib.contextmanager
def network() -> Iterator[Network | None]:
    """The network, gone at the end; None where this user may not make one."""
    if os.geteuid() != 0:
        yield None
        return
    made = Network()
    try:
        try:
            made.up()
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"{' '.join(error.cmd)}: {error.stderr.decode().strip()}") from None
        yield made
    finally:
        made.down()
