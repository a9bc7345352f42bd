"""Servers for the tests of failovers: a primary with a replica under three Sentinels, and a cluster of three primaries.

All are real ones of the Valkey wheel, or the system's Redis where they speak TLS, which the wheel does not know. Each
server keeps its data in a folder of its own, and may be killed and started.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from deploy.local.servers import prepare_valkey
from tests.ingress_process import wait_for
from tests.launching import free_port, spawn

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence

    from tests.certificates import Certificate

PASSWORD = "test"
REDIS = shutil.which("redis-server") or ""
"""The system's own; empty if there is none."""
MASTER = "inbox"


class Node:
    """One server, on a port and a folder that it keeps.

    Attributes:
        popen: its process, None while it does not run.
    """

    def __init__(
        self,
        home: Path,
        *options: str,
        configuration: str | None = None,
        tls: Certificate | None = None,
        program: str = "",
    ) -> None:
        self.port = free_port()
        self.home = home
        home.mkdir()
        server = prepare_valkey(home, port=self.port, password=PASSWORD, maxmemory="64mb")
        written = Path(server.argv[1])
        if configuration is not None:
            lines = [f"port {self.port}", "bind 127.0.0.1", f"dir {home}", configuration]
        else:
            # the disk is not what is tested here, and a slow one would be answered for with 503
            more = [f"masterauth {PASSWORD}", "appendfsync no", "repl-diskless-sync-delay 0", *options]
            lines = [written.read_text(), *more]
        self._tls = tls
        if tls is not None:
            lines += ["port 0", f"tls-port {self.port}", "tls-auth-clients no", "tls-replication yes"]
            lines += [f"tls-cert-file {tls.authority}", f"tls-key-file {tls.key}", f"tls-ca-cert-file {tls.authority}"]
        written.write_text("\n".join(lines) + "\n")
        self._argv = [program or (REDIS if tls is not None else server.argv[0]), str(written)]
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start it, and wait until it answers."""
        self.popen = spawn([*self._argv, *options], log=self.home / "log", user=None, at_our_end=signal.SIGKILL)
        wait_for(self._answers, seconds=30)

    def kill(self) -> None:
        """End it as a crash does."""
        if self.popen is not None:
            self.popen.kill()
            self.popen.wait()
            self.popen = None

    def client(self) -> redis.Redis:
        """Return a client of this node."""
        how: dict[str, Any] = {"ssl": True, "ssl_ca_certs": str(self._tls.authority)} if self._tls is not None else {}
        password = None if "--sentinel" in self._argv else PASSWORD
        return redis.Redis(port=self.port, password=password, socket_timeout=5, decode_responses=True, **how)

    def info(self, name: str) -> Any:
        """Return what INFO says, None while it does not answer."""
        with suppress(redis.RedisError), self.client() as client:
            return client.info().get(name)
        return None

    def _answers(self) -> bool:
        with suppress(redis.RedisError), self.client() as client:
            return bool(client.ping())
        return False


class Sentinel(Node):
    """A Sentinel that watches one primary."""

    def __init__(
        self,
        home: Path,
        primary: Node,
        *,
        down_after_milliseconds: int,
        tls: Certificate | None = None,
        program: str = "",
    ) -> None:
        lines = [
            f"sentinel monitor {MASTER} 127.0.0.1 {primary.port} 2",
            f"sentinel auth-pass {MASTER} {PASSWORD}",
            f"sentinel down-after-milliseconds {MASTER} {down_after_milliseconds}",
            f"sentinel failover-timeout {MASTER} 2000",
        ]
        super().__init__(home, configuration="\n".join(lines), tls=tls, program=program)
        self._argv.append("--sentinel")


class Watched:
    """A primary and its replicas under three Sentinels.

    Attributes:
        url: of all of them, for `INBOX_URL` or `BROKER_URL`.
    """

    def __init__(
        self,
        home: Path,
        stack: ExitStack,
        *,
        replicas: int,
        down_after_milliseconds: int,
        tls: Certificate | None,
        options: Sequence[str],
        program: str,
    ) -> None:
        how: dict[str, Any] = {"tls": tls, "program": program}
        self.nodes = [Node(home / f"node-{number}", *options, **how) for number in range(1 + replicas)]
        first, *others = self.nodes
        for node in self.nodes:
            stack.callback(node.kill)
        first.start()
        for node in others:
            node.start("--replicaof", "127.0.0.1", str(first.port))
        wait_for(lambda: first.info("connected_slaves") == replicas, seconds=30)
        self.sentinels = [
            Sentinel(home / f"sentinel-{number}", first, down_after_milliseconds=down_after_milliseconds, **how)
            for number in range(3)
        ]
        for sentinel in self.sentinels:
            stack.callback(sentinel.kill)
            sentinel.start()
        wait_for(self._know_each_other, seconds=30)
        hosts = ",".join(f"127.0.0.1:{it.port}" for it in self.sentinels)
        self.url = f"redis+sentinel://:{PASSWORD}@{hosts}/{MASTER}"
        if tls is not None:
            self.url = self.url.replace("redis", "rediss", 1) + f"?ssl_ca_certs={tls.authority}"

    def primary(self) -> Node:
        """Return the node that two of the Sentinels name."""
        named = [str(found["port"]) for it in self.sentinels if (found := self._state_at(it))]
        (node,) = (it for it in self.nodes if named.count(str(it.port)) > 1)
        return node

    def is_whole(self) -> bool:
        """Return whether every other node follows the primary and has received all that it has written."""
        with suppress(ValueError):
            primary = self.primary()
            found = primary.info("connected_slaves")
            return bool(
                primary.info("role") == "master"
                and found == len(self.nodes) - 1
                and all(it.info("master_link_status") == "up" for it in self.nodes if it is not primary)
                and all((state := self._state_at(it)) and self._is_calm(state) for it in self.sentinels)
            )
        return False

    def _is_calm(self, state: dict[str, Any]) -> bool:
        return int(state["num-slaves"]) == len(self.nodes) - 1 and state["flags"] == "master"

    def _know_each_other(self) -> bool:
        states = [self._state_at(it) for it in self.sentinels]
        return all(
            state and int(state["num-other-sentinels"]) == len(states) - 1 and self._is_calm(state) for state in states
        )

    def _state_at(self, sentinel: Node) -> dict[str, Any] | None:
        with suppress(redis.RedisError), sentinel.client() as client:
            flat = client.execute_command("SENTINEL MASTER", MASTER)
            return flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
        return None


@contextmanager
def watched(
    *,
    replicas: int = 1,
    down_after_milliseconds: int = 1000,
    tls: Certificate | None = None,
    options: Sequence[str] = (),
    program: str = "",
) -> Iterator[Watched]:
    """Run a primary, replicas and Sentinels until the block ends.

    Args:
        replicas: of the primary.
        down_after_milliseconds: until a Sentinel takes a server for dead.
        tls: all speak TLS only, with this certificate.
        options: lines for the configuration of servers.
        program: their server; empty for the wheel's.
    """
    with ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="watched-", dir="/tmp"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        yield Watched(
            home,
            stack,
            replicas=replicas,
            down_after_milliseconds=down_after_milliseconds,
            tls=tls,
            options=options,
            program=program,
        )


class Cluster:
    """Three primaries, each with a replica.

    Attributes:
        url: of all nodes, for `INBOX_URL`.
    """

    def __init__(self, home: Path, stack: ExitStack, *, tls: Certificate | None) -> None:
        options = ["cluster-enabled yes", "cluster-node-timeout 1000", "cluster-require-full-coverage no"]
        options += ["tls-cluster yes"] if tls is not None else []
        self.nodes = [Node(home / f"node-{number}", *options, tls=tls) for number in range(6)]
        for node in self.nodes:
            stack.callback(node.kill)
            node.start()
        first = self.nodes[0]
        with first.client() as client:
            for node in self.nodes[1:]:
                client.execute_command("CLUSTER MEET", "127.0.0.1", node.port)
        for number, node in enumerate(self.nodes[:3]):
            with node.client() as client:
                last = number * 5461 + 5460 if number < 2 else 16383
                client.execute_command("CLUSTER ADDSLOTSRANGE", number * 5461, last)
        wait_for(lambda: all(self._knows(it, "cluster_known_nodes:6") for it in self.nodes), seconds=30)
        for primary, replica in zip(self.nodes[:3], self.nodes[3:], strict=True):
            with primary.client() as client, replica.client() as follower:
                name = client.execute_command("CLUSTER MYID")
                wait_for(partial(self._follows, follower, name), seconds=30)
        wait_for(lambda: all(self._knows(it, "cluster_state:ok") for it in self.nodes), seconds=30)
        wait_for(lambda: all(it.info("connected_slaves") == 1 for it in self.nodes[:3]), seconds=30)
        self.url = f"redis+cluster://:{PASSWORD}@" + ",".join(f"127.0.0.1:{it.port}" for it in self.nodes)
        if tls is not None:
            self.url = self.url.replace("redis", "rediss", 1) + f"?ssl_ca_certs={tls.authority}"

    def owner(self, name: str) -> Node | None:
        """Return the node that holds a name; None while a failover is under way."""
        for node in self.nodes:
            if node.popen is not None and node.info("role") == "master":
                with suppress(redis.RedisError), node.client() as client:
                    client.exists(name)
                    return node
        return None

    @staticmethod
    def _knows(node: Node, line: str) -> bool:
        with node.client() as client:
            found = client.execute_command("CLUSTER INFO")
        return line.partition(":")[2] == str(found[line.partition(":")[0]])

    @staticmethod
    def _follows(client: redis.Redis, name: str) -> bool:
        with suppress(redis.RedisError):
            return bool(client.execute_command("CLUSTER REPLICATE", name))
        return False


@contextmanager
def cluster(*, tls: Certificate | None = None) -> Iterator[Cluster]:
    """Run a cluster until the block ends; with a certificate, all of it speaks TLS only."""
    with ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="cluster-", dir="/tmp"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        yield Cluster(home, stack, tls=tls)
