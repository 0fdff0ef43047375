"""Hosts of their own on one machine: network namespaces on a bridge, each with its own address, name and /tmp."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_BRIDGE = "reco0"
_SUBNET = "10.213.7"
_CHECKOUT = Path(__file__).parents[2]
_INSIDE = """
set -e
hostname "$1"
case "$5" in /tmp/*) # the checkout stays where it is, though /tmp is the host's own
    mkdir -p "$2/${5#/tmp/}"
    mount --bind "$5" "$2/${5#/tmp/}" ;;
esac
mount --rbind "$2" /tmp
mount --bind "$3" /etc/hosts
mount --bind "$4" /etc/resolv.conf
shift 5
exec "$@"
"""


class Host:
    """One host.

    Args:
        name: Its name.
        number: Last part of its address.
        folder: Where its /tmp, its logs and its hosts file lie.
    """

    def __init__(self, name: str, number: int, folder: Path) -> None:
        self.name = name
        self.address = f"{_SUBNET}.{number}"
        self._namespace = f"reco-{name}"
        self._link = f"rc-{name}"[:15]
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        (folder / "tmp").mkdir(parents=True)

    def up(self) -> None:
        """Make its namespace and plug it in."""
        # Of a killed run the kernel may still be about to remove it.
        subprocess.run(["ip", "link", "del", self._link], capture_output=True, check=False)
        _ip("netns", "add", self._namespace)
        _ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self._namespace)
        _ip("link", "set", self._link, "master", _BRIDGE, "up")
        for command in (
            ("address", "add", f"{self.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
            ("route", "add", "default", "via", f"{_SUBNET}.1"),
        ):
            _ip("-n", self._namespace, *command)

    def start(self, command: str, environment: Mapping[str, str], *, log: str) -> subprocess.Popen[bytes]:
        """Run a command on this host; its output goes to the log of that name."""
        process = subprocess.Popen(self._command(command), env=dict(environment), **self._output(log))  # type: ignore[call-overload]
        self._processes.append(process)
        return process

    def run(self, command: str, environment: Mapping[str, str], *, timeout: float, check: bool = True) -> str:
        """Run a command on this host to its end; returns what it printed."""
        ran = subprocess.run(
            self._command(command),
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert ran.returncode == 0 or not check, f"{command} on {self.name}: exit code {ran.returncode}\n{ran.stdout}"
        return ran.stdout

    def log(self, name: str) -> str:
        """What a started command printed so far."""
        return (self._folder / f"{name}.log").read_text()

    def await_port(self, port: int, *, seconds: float = 60.0) -> None:
        """Wait until something listens there."""
        import socket

        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((self.address, port), timeout=1):
                return
            time.sleep(0.1)
        logs = "\n".join(path.read_text()[-2000:] for path in self._folder.glob("*.log"))
        raise AssertionError(f"nothing listens on {self.name}:{port}\n{logs}")

    def kill(self) -> None:
        """End every process of the host at once, as a power cut does."""
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        for process in self._processes:
            process.wait()

    def kill_one(self, words: str, *, by: signal.Signals = signal.SIGKILL) -> bool:
        """Send one process whose command line has these words a signal; whether there was one."""
        for pid in self._pids(words):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, by)
                return True
        return False

    def runs(self, words: str) -> bool:
        """Whether a process whose command line has these words is alive."""
        return bool(self._pids(words))

    def _pids(self, words: str = "") -> list[int]:
        found = []
        for pid in _pids_in(self._namespace):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if words in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode():
                    found.append(pid)
        return found

    def unplug(self) -> None:
        """Cut its link; processes go on."""
        _ip("link", "set", self._link, "down")

    def plug_in(self) -> None:
        """Mend its link."""
        _ip("link", "set", self._link, "up")

    def down(self) -> None:
        """Take it away."""
        self.kill()
        subprocess.run(["ip", "link", "del", self._link], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", self._namespace], capture_output=True, check=False)

    def _command(self, command: str) -> list[str]:
        shared = self._folder.parent
        given = [self.name, self._folder / "tmp", shared / "hosts", shared / "resolv.conf", _CHECKOUT]
        inside = ["unshare", "-m", "-u", "sh", "-c", _INSIDE, "sh", *map(str, given)]
        return ["ip", "netns", "exec", self._namespace, *inside, *shlex.split(command)]

    def _output(self, log: str) -> dict[str, object]:
        file = (self._folder / f"{log}.log").open("wb")
        return {"stdout": file, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}


@contextlib.contextmanager
def network(folder: Path, names: Sequence[str]) -> Iterator[dict[str, Host]]:
    """Hosts on one bridge; all of it is gone afterwards.

    Args:
        folder: For their files; not below /tmp, which each host has for itself.
        names: Of the hosts.
    """
    hosts = {name: Host(name, number, folder / name) for number, name in enumerate(names, start=10)}
    lines = ["127.0.0.1 localhost", *(f"{host.address} {host.name}" for host in hosts.values())]
    (folder / "hosts").write_text("\n".join(lines) + "\n")
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")  # none is there: said at once, not after 20 seconds
    _clean()
    try:
        _ip("link", "add", _BRIDGE, "type", "bridge")
        _ip("address", "add", f"{_SUBNET}.1/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        for host in hosts.values():
            host.up()
        yield hosts
    finally:
        for host in hosts.values():
            host.down()
        _clean()


def program(name: str) -> str:
    """The path of a console script of this environment."""
    found = Path(sys.executable).with_name(name)
    return str(found) if found.exists() else shutil.which(name) or name


def why_no_hosts() -> str | None:
    """Why hosts cannot be made here; None where they can."""
    if os.geteuid() != 0:
        return "hosts are network namespaces, which need root"
    name = "reco-trial"
    for command in (
        ["ip", "netns", "add", name],
        ["ip", "link", "add", name, "type", "bridge"],
        ["ip", "netns", "exec", name, "unshare", "-m", "-u", "hostname", name],
        ["ip", "link", "del", name],
        ["ip", "netns", "del", name],
    ):
        try:
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return f"hosts need `{command[0]}`, from the package iproute2"
        if ran.returncode:
            for kind in ("link", "netns"):
                subprocess.run(["ip", kind, "del", name], capture_output=True, check=False)
            return f"hosts cannot be made here: `{' '.join(command)}`: {ran.stderr.strip()}"
    return None


def _clean() -> None:
    """Remove what an earlier run that was killed has left."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    for line in listed.stdout.splitlines():
        if line.startswith("reco-"):
            name = line.split()[0]
            for pid in _pids_in(name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    subprocess.run(["ip", "link", "del", _BRIDGE], capture_output=True, check=False)


def _pids_in(namespace: str) -> list[int]:
    pids = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    return [int(pid) for pid in pids.stdout.split()]


def _ip(*words: str) -> None:
    ran = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"ip {' '.join(words)}: {ran.stderr}"
