"""A real Prometheus with what is shipped for it; only ports and, where a test wants it, the interval are its own."""

from __future__ import annotations

import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import httpx
import pytest

from tests.launching import ROOT, free_port, spawn
from tests.system.waiting import until

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

PROMETHEUS: Final = shutil.which("prometheus") or "/usr/bin/prometheus"
SHIPPED: Final = ROOT / "deploy" / "prometheus"
SHIPPED_INTERVAL: Final = "10s"

needs_prometheus: Final = pytest.mark.skipif(
    not Path(PROMETHEUS).exists(), reason="Prometheus is not installed: apt-get install prometheus"
)


class Prometheus:
    """What a running Prometheus answers."""

    def __init__(self, url: str, client: httpx.Client) -> None:
        self._url = url
        self._client = client

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an expression at this moment."""
        answer = self._client.get(f"{self._url}/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", answer
        return list(answer["data"]["result"])

    def firing(self) -> set[tuple[str, str]]:
        """Return name and severity of the alerts that fire."""
        alerts = self._client.get(f"{self._url}/api/v1/alerts").json()["data"]["alerts"]
        labels = [alert["labels"] for alert in alerts if alert["state"] == "firing"]
        return {(it["alertname"], it["severity"]) for it in labels}

    def names(self) -> set[str]:
        """Return the names of the alerts that fire."""
        return {name for name, _ in self.firing()}

    def wait_for(self, alerts: Collection[str], *, seconds: float) -> float:
        """Wait until all these alerts have fired; return how long it took."""
        started, left = time.monotonic(), set(alerts)

        def look() -> bool:
            left.difference_update(self.names())
            return not left

        until(look, seconds=seconds, what=f"{sorted(alerts)} of Prometheus", every=0.2)
        return time.monotonic() - started

    def wait_for_end(self, alerts: Collection[str], *, seconds: float) -> float:
        """Wait until none of these alerts fires; return how long it took."""
        started = time.monotonic()
        until(lambda: not self.names() & set(alerts), seconds=seconds, what=f"the end of {sorted(alerts)}", every=0.2)
        return time.monotonic() - started

    def is_scraping(self) -> bool:
        """Say whether every target was scraped."""
        up = self.query("up")
        return bool(up) and all(sample["value"][1] == "1" for sample in up)


@contextmanager
def prometheus(
    home: Path, *, exporter_url: str, ingress_ports: Sequence[int], interval: str = SHIPPED_INTERVAL
) -> Iterator[Prometheus]:
    """Run Prometheus until the block ends, from its first scrape of everything on."""
    text = (SHIPPED / "prometheus.yml").read_text()
    ingress = ", ".join(f'"127.0.0.1:{port}"' for port in ingress_ports)
    for shipped, own in (
        ('"127.0.0.1:9808"', f'"{urlsplit(exporter_url).netloc}"'),
        ('"127.0.0.1:9809"', ingress),
        ("[rules.yml]", f'["{SHIPPED / "rules.yml"}"]'),
        (f"scrape_interval: {SHIPPED_INTERVAL}", f"scrape_interval: {interval}"),
        (f"evaluation_interval: {SHIPPED_INTERVAL}", f"evaluation_interval: {interval}"),
        ("scrape_timeout: 5s", f"scrape_timeout: {min(int(interval[:-1]), 5)}s"),
    ):
        assert shipped in text
        text = text.replace(shipped, own)
    (home / "prometheus.yml").write_text(text)
    port = free_port()
    process = spawn(
        [
            PROMETHEUS,
            f"--config.file={home / 'prometheus.yml'}",
            f"--storage.tsdb.path={home / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        log=home / "prometheus.log",
    )
    try:
        with httpx.Client(trust_env=False, timeout=10) as client:
            it = Prometheus(f"http://127.0.0.1:{port}", client)

            def is_ready() -> bool:
                assert process.poll() is None, (home / "prometheus.log").read_text()
                try:
                    return it.is_scraping()
                except (httpx.TransportError, ValueError):
                    return False

            until(is_ready, seconds=60, what="Prometheus")
            yield it
    finally:
        process.terminate()
        process.wait(20)
