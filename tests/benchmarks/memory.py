"""What the ingress and Redis need: memory after many requests, and per event that waits."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import psutil

from tests.benchmarks.processes import load, run_ours
from tests.launching import free_port

if TYPE_CHECKING:
    from tests.benchmarks.ground import Ground
    from tests.benchmarks.measuring import Figures


def measure_memory(ground: Ground, results: dict[str, Any], requests: int) -> Figures:
    """Post so many requests to one process; note its unique set every tenth of them."""
    curve: list[tuple[float, float]] = []
    with ground.fresh() as place:
        port = free_port()
        place.add_endpoint()
        with run_ours(place, "ingress", ingress_port=port) as pids:
            process = psutil.Process(pids["ingress"])
            load("closed", port=port, count=1000)
            before = place.redis.info("memory")["used_memory"]
            done = threading.Event()

            def post() -> None:
                load("closed", port=port, count=requests)
                done.set()

            loader = threading.Thread(target=post)
            loader.start()
            step = requests // 10
            while loader.is_alive():
                done.wait(0.05)
                waiting = place.waiting() - 1000
                if waiting >= (len(curve) + 1) * step or (done.is_set() and len(curve) < 10):
                    curve.append((waiting, process.memory_full_info().uss / 1e6))
            loader.join()
            if not done.is_set():
                raise RuntimeError("the load was not finished")
            curve.append((place.waiting() - 1000, process.memory_full_info().uss / 1e6))
            used = place.redis.info("memory")["used_memory"] - before
    results["curves"]["ingress memory"] = {
        "x": "requests served", "y": "MB, unique set", "lines": {"ingress": curve}, "flat": True
    }  # fmt: skip
    return {"ingress_megabytes": curve[-1][1], "waiting_bytes": used / requests}
