"""The nginx configurations: nginx' own check, a rolling restart of two real ingress processes, and the console."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ingress.schemes import find
from tests.console import PASSWORD, add_user, serve_console
from tests.ingress_process import PATH, SECRET, endpoint, environment, inbox, publish, secret, wait_for
from tests.launching import free_port, spawn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from workers.store.connect import Connection

SHIPPED = Path(__file__).parents[2] / "deploy" / "nginx"
CONSOLE = "console.example.com"
NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
RATE = 100

pytestmark = pytest.mark.skipif(not Path(NGINX).exists(), reason="nginx is not installed: apt-get install nginx-light")


def make_certificate(folder: Path) -> None:
    """Write a certificate of our own for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (folder / "tls.key").write_bytes(pem)


def configure(folder: Path, *, port: int, upstreams: tuple[int, int]) -> Path:
    """Write the configuration for the ingress with these ports, and the rest that nginx needs."""
    ours = {"127.0.0.1:8000": f"127.0.0.1:{upstreams[0]}", "127.0.0.1:8001": f"127.0.0.1:{upstreams[1]}"}
    return write(folder, {"webhook-pipeline": ours}, port=port)


def configure_console(folder: Path, *, port: int, upstream: str) -> Path:
    """Write both configurations, that of the console with this address of it."""
    return write(folder, {"webhook-console": {"127.0.0.1:5556": upstream}, "webhook-pipeline": {}}, port=port)


def write(folder: Path, files: Mapping[str, Mapping[str, str]], *, port: int) -> Path:
    """Write shipped files, each with what is replaced in it, and a configuration that includes them."""
    make_certificate(folder)
    for name, replaced in files.items():
        text = (SHIPPED / f"{name}.conf").read_text()
        own = {"listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;", f"/etc/nginx/{name}/": f"{folder}/"}
        for shipped, ours in {**own, **replaced}.items():
            assert shipped in text
            text = text.replace(shipped, ours)
        (folder / f"{name}.conf").write_text(text)
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; {paths} include {folder}/webhook-*.conf; }}\n"
    )
    return folder / "nginx.conf"


@pytest.fixture
def folder() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="pipeline-nginx-", dir="/tmp"))
    home.chmod(0o755)
    yield home
    shutil.rmtree(home, ignore_errors=True)


@contextmanager
def nginx(configuration: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([NGINX, "-c", str(configuration), "-p", str(configuration.parent)])
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


class Ingress:
    """An ingress on one port that can be restarted."""

    def __init__(self, redis_url: str, port: int, log: Path) -> None:
        self._environ = environment(redis_url, {"INGRESS_PORT": str(port)})
        self._url = f"http://127.0.0.1:{port}/readyz"
        self._log = log
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ingress"], env=self._environ, stdout=log, stderr=log
            )
        wait_for(self._is_ready, seconds=20)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(15) == 0

    def _is_ready(self) -> bool:
        try:
            return httpx.get(self._url, trust_env=False).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False


def test_nginx_accepts_the_configuration_alone_and_with_that_of_the_console(folder: Path) -> None:
    accept(configure(folder, port=free_port(), upstreams=(free_port(), free_port())))
    accept(configure_console(folder, port=free_port(), upstream=f"127.0.0.1:{free_port()}"))


def accept(configuration: Path) -> None:
    """See that nginx finds nothing wrong, and nothing to warn of."""
    done = subprocess.run([NGINX, "-t", "-c", str(configuration)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_rolling_restart_of_two_ingresses_at_a_hundred_requests_a_second_refuses_none(
    folder: Path, redis_url: str
) -> None:
    publish(redis_url, 1, endpoint(secret()))
    ports = (free_port(), free_port())
    port = free_port()
    configuration = configure(folder, port=port, upstreams=ports)
    tls = ssl.create_default_context(cafile=folder / "tls.crt")
    answers: list[object] = []
    is_over = threading.Event()
    with ExitStack() as stack:
        ingresses = [Ingress(redis_url, each, folder / f"{each}.log") for each in ports]
        for ingress in ingresses:
            stack.callback(ingress.stop)
        stack.enter_context(nginx(configuration))
        client = stack.enter_context(httpx.Client(verify=tls, timeout=20, trust_env=False))

        def post(number: int) -> object:
            body = b'{"number":%d}' % number
            try:
                return client.post(
                    f"https://127.0.0.1:{port}{PATH}", content=body, headers=dict(find("moveris").sign(SECRET, body))
                ).status_code
            except httpx.TransportError as error:
                return repr(error)

        wait_for(lambda: post(-1) == httpx.codes.OK, seconds=10)
        before = len(inbox(redis_url))

        def keep_posting(first: int, senders: int) -> None:
            due = time.monotonic()
            number = first
            while not is_over.is_set():
                answers.append(post(number))
                number += senders
                due += senders / RATE
                time.sleep(max(0.0, due - time.monotonic()))

        senders = [threading.Thread(target=keep_posting, args=(first, 4)) for first in range(4)]
        for sender in senders:
            sender.start()
        try:
            for _ in range(2):
                for ingress in ingresses:
                    enough = len(answers) + 50
                    wait_for(lambda enough=enough: len(answers) > enough, seconds=20)  # type: ignore[misc]
                    ingress.stop()
                    ingress.start()
        finally:
            is_over.set()
            for sender in senders:
                sender.join()
    assert [answer for answer in answers if answer != httpx.codes.OK] == [], (folder / "error.log").read_text()
    assert len(inbox(redis_url)) - before >= len(answers)
    assert len({envelope.body for envelope in inbox(redis_url)}) == len(answers) + 1
    assert len(answers) > 200, "each stop came in the middle of requests"


def test_with_no_ingress_a_request_is_asked_to_come_again(folder: Path) -> None:
    port = free_port()
    configuration = configure(folder, port=port, upstreams=(free_port(), free_port()))
    tls = ssl.create_default_context(cafile=folder / "tls.crt")
    with nginx(configuration), httpx.Client(verify=tls, trust_env=False) as client:
        url = f"https://127.0.0.1:{port}"

        def answers() -> bool:
            try:
                return client.get(f"{url}/livez").status_code == httpx.codes.NOT_FOUND
            except httpx.TransportError:
                return False

        wait_for(answers, seconds=10)
        answer = client.post(f"{url}{PATH}", content=b"{}")
        assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json()["error"]["code"] == "ingress_away"
        large = client.post(f"{url}{PATH}", content=bytes(2_000_000))
        assert large.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE


def test_a_client_over_its_rate_is_answered_429(folder: Path) -> None:
    port = free_port()
    configuration = configure(folder, port=port, upstreams=(free_port(), free_port()))
    shipped = "rate=500r/s"
    text = (folder / "webhook-pipeline.conf").read_text()
    assert shipped in text
    (folder / "webhook-pipeline.conf").write_text(text.replace(shipped, "rate=1r/s").replace("burst=1000", "burst=5"))
    tls = ssl.create_default_context(cafile=folder / "tls.crt")
    with nginx(configuration), httpx.Client(verify=tls, trust_env=False) as client:
        wait_for(lambda: bool((folder / "nginx.pid").exists()), seconds=10)
        statuses = [client.post(f"https://127.0.0.1:{port}{PATH}", content=b"{}").status_code for _ in range(12)]
        assert httpx.codes.TOO_MANY_REQUESTS in statuses


@contextmanager
def browser(folder: Path, port: int) -> Iterator[httpx.Client]:
    """Return a client of the console behind nginx, once nginx listens."""
    tls = ssl.create_default_context(cafile=folder / "tls.crt")
    headers = {"Host": CONSOLE, "Sec-Fetch-Site": "same-origin"}
    with httpx.Client(verify=tls, trust_env=False, base_url=f"https://127.0.0.1:{port}", headers=headers) as client:
        wait_for((folder / "nginx.pid").exists, seconds=10)
        yield client


def test_somebody_signs_in_to_the_console_through_nginx_and_nobody_by_a_header_of_their_own(
    folder: Path, database_url: str, redis_url: str, connection: Connection
) -> None:
    port, settings = free_port(), {"CONSOLE_URL": f"https://{CONSOLE}"}
    settings |= {"CONSOLE_PROXY_HEADER": "X-Forwarded-User", "CONSOLE_PROXY_FROM": "127.0.0.1"}
    add_user(connection, "alice", "admin")
    with serve_console(database_url, redis_url, **settings) as console:
        configuration = configure_console(folder, port=port, upstream=console.url.removeprefix("http://"))
        with nginx(configuration), browser(folder, port) as client:
            assert client.get("/").headers["location"] == "/sign-in"
            assert client.get("/", headers={"X-Forwarded-User": "alice"}).status_code == httpx.codes.SEE_OTHER
            answer = client.post("/sign-in", data={"name": "alice", "password": PASSWORD})
            assert answer.status_code == httpx.codes.SEE_OTHER, answer.text
            assert "__Host-pipeline_session" in client.cookies
            page = client.get("/")
            assert (page.status_code, "strict-transport-security" in page.headers) == (httpx.codes.OK, True)
            assert client.get("/", headers={"Host": "other.example.com"}).status_code == httpx.codes.FORBIDDEN


def test_nginx_bounds_the_attempts_of_an_address_to_sign_in_to_the_console(
    folder: Path, database_url: str, redis_url: str
) -> None:
    port = free_port()
    with serve_console(database_url, redis_url, CONSOLE_URL=f"https://{CONSOLE}") as console:
        configuration = configure_console(folder, port=port, upstream=console.url.removeprefix("http://"))
        with nginx(configuration), browser(folder, port) as client:
            statuses = [client.get("/sign-in").status_code for _ in range(20)]
            assert statuses[:10] == [httpx.codes.OK] * 10
            assert statuses[-1] == httpx.codes.TOO_MANY_REQUESTS
            assert client.get("/static/console.css").status_code == httpx.codes.OK


def test_a_console_without_users_lets_nobody_in_through_nginx(folder: Path, database_url: str, redis_url: str) -> None:
    port, log = free_port(), folder / "console.log"
    own = free_port()
    environ = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "CONSOLE_PORT": str(own)}
    url = f"http://127.0.0.1:{own}"
    with spawn([sys.executable, "-m", "deploy.console"], log=log, environ=os.environ | environ) as process:

        def answers() -> bool:
            try:
                return httpx.get(f"{url}/", trust_env=False).status_code == httpx.codes.OK
            except httpx.TransportError:
                return False

        try:
            wait_for(answers, seconds=30)
            configuration = configure_console(folder, port=port, upstream=f"127.0.0.1:{own}")
            with nginx(configuration), browser(folder, port) as client:
                for host in (CONSOLE, f"127.0.0.1:{own}"):
                    assert client.get("/", headers={"Host": host}).status_code != httpx.codes.OK
        finally:
            process.kill()
