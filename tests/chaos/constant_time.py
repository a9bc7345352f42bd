"""Whether the time of a refusal tells where a forged signature differs from the right one.

Two signatures are compared, the right one with its first hexadecimal digit changed and with its last one: in turns, in
an order drawn anew for each pair, so that drifts of the machine meet both alike. The statistic is that of a sign test
on the pairs: the share of pairs in which the first-digit difference was answered later, which is one half if the two
cannot be told apart; |z| is its distance from one half in standard errors. As a control, the same is measured for a
comparison that ends at the first difference: there the statistic must find it.

Two ranges: over HTTP, where an attacker stands, and inside one process, where a difference of nanoseconds would show.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.chaos.client import Connection, post, signature
from tests.moveris import completed

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chaos.stack import Endpoint

# Runs in a process of its own, with the pipeline's own verification; the control ends at the first difference.
_INSIDE: Final = """
import hashlib, hmac, json, random, sys, time
from ingress.schemes import find
from ingress.schemes.scheme import Key
moveris = find("moveris")

pairs, chance = int(sys.argv[1]), random.Random(int(sys.argv[2]))
secret, body = b"the secret", b'{"event": "verification.completed"}' * 8
right = b"sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest().encode()
def other(digit): return b"1" if digit == b"0" else b"0"
first = right[:7] + other(right[7:8]) + right[8:]
last = right[:-1] + other(right[-1:])
keys = (Key(label="one", secret=secret),)

def verify(given):
    moveris.verify(keys=keys, headers=[(b"x-webhook-signature", given)], body=body, now=0.0)

def early(given):
    mine = b"sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest().encode()
    for one, two in zip(mine, given):
        if one != two:
            return False
    return True

def measure(function):
    found = []
    clock = time.perf_counter_ns
    for _ in range(pairs):
        took = [0, 0]
        for which in random.Random(chance.random()).sample((0, 1), 2):
            given = bytes(bytearray((first, last)[which]))  # fresh: an object's place in memory shows, too
            started = clock()
            function(given)
            took[which] = clock() - started
        found.append(took[0] - took[1])
    return found

print(json.dumps({"verify": measure(verify), "early": measure(early)}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """First-digit time less last-digit time.

    Attributes:
        pairs: measured.
        median: of the differences, nanoseconds.
        share: of the pairs with a difference, in which the first digit's took longer.
        z: the share's distance from one half, in standard errors; beyond 4 it would be no accident.
    """

    pairs: int
    median: float
    share: float
    z: float

    @property
    def can_be_told(self) -> bool:
        """Whether the two can be told apart."""
        return abs(self.z) > 4


def judge(differences: list[float]) -> Difference:
    """Apply the sign test to differences in nanoseconds."""
    decided = [difference for difference in differences if difference]
    longer = sum(difference > 0 for difference in decided)
    z = (longer - len(decided) / 2) / (len(decided) ** 0.5 / 2) if decided else 0.0
    return Difference(
        pairs=len(differences),
        median=statistics.median(differences),
        share=longer / len(decided) if decided else 0.5,
        z=z,
    )


def inside(*, pairs: int, seed: int) -> dict[str, Difference]:
    """Measure `verify` and the control in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-c", _INSIDE, str(pairs), str(seed)], capture_output=True, text=True, check=True
    )
    return {name: judge(differences) for name, differences in json.loads(done.stdout).items()}


async def over_http(
    endpoint: Endpoint, *, pairs: int, seed: int, on_step: Callable[[int], None] = lambda _: None
) -> Difference:
    """Measure refusals of the running ingress over one connection."""
    chance = random.Random(seed)  # noqa: S311 - a seed that can be given again is what is wanted
    connection, differences = Connection(endpoint.port), []
    for pair in range(pairs):
        body = completed()
        right = signature(endpoint.secret, body)
        forged = {
            "first": right[:7] + (b"1" if right[7:8] == b"0" else b"0") + right[8:],
            "last": right[:-1] + (b"1" if right[-1:] == b"0" else b"0"),
        }
        took = {}
        for which in chance.sample(sorted(forged), 2):
            request = post(endpoint.path, body, forged[which])
            started = time.perf_counter_ns()
            answer = await connection.send(request, seconds=10)
            took[which] = time.perf_counter_ns() - started
            assert answer.status == 401, answer
        differences.append(float(took["first"] - took["last"]))
        if pair % 100 == 0:
            on_step(pair)
            await asyncio.sleep(0)
    connection.close()
    return judge(differences)
