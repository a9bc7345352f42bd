"""Requests that no provider sends: structured ones drawn by hypothesis, raw ones built from a seed.

The seed decides each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.chaos.client import signature
from tests.moveris import completed

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from tests.chaos.stack import Endpoint

TOKENS: Final = [
    *(
        "sha256=",
        "sha256",
        "SHA256=",
        "sha1=",
        "=",
        "",
        "sha256=" + "0" * 64,
        "sha256=" + "G" * 64,
        "sha256=" + "0" * 63,
    ),
    *("sha256=" + "0" * 65, "sha256= " + "0" * 64, "sha256=" + "\u00e9" * 64, "sha256=" + "0" * 5000, "null", "[]"),
]
PATHS: Final = [
    *("/", "//", "/webhooks", "/webhooks/", "/webhooks/moveris", "/webhooks/moveris/", "/webhooks/moveris/nobody"),
    *("/webhooks/moveris/acme/", "/webhooks//acme", "/webhooks/moveris/acme/x", "/webhooks/moveris/acme?x=1", "*"),
    *("/webhooks/moveris/%61cme", "/webhooks/moveris/%00", "/webhooks/../webhooks/moveris/acme", "/livez", "/readyz"),
    *(
        "/webhooks/version/version",
        "/webhooks/moveris/acme%2f",
        "http://chaos/webhooks/moveris/acme",
        "/%ff%fe",
        "acme",
    ),
    *("/webhooks/moveris/acme#x", "/" + "a" * 9000, "/webhooks/moveris/\u00e9", "/metrics", "/favicon.ico", "?", "#"),
]
METHODS: Final = [
    "GET",
    "HEAD",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "post",
    "PROPFIND",
    "X" * 40,
    "",
]
NAMES: Final = [
    "x-webhook-event",
    "x-webhook-session",
    "content-type",
    "host",
    "expect",
    "content-encoding",
    "te",
    "upgrade",
    "transfer-encoding",
]

ENCODINGS: Final = ["chunked", "gzip, chunked", "identity", "100-continue", "br", "trailers", "h2c"]

# Half of the names and values are ones that HTTP allows, so that as many requests come to what lies behind the parser.
names = (
    st.sampled_from(NAMES)
    | st.from_regex(r"[a-z-]{1,20}", fullmatch=True)
    | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
)
values = (
    st.sampled_from([*TOKENS, *ENCODINGS])
    | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
    | st.text(st.characters(min_codepoint=128, max_codepoint=255), max_size=60)
    | st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=60)
)
nothing: st.SearchStrategy[list[tuple[str, str]]] = st.just([])
headers = nothing | st.lists(st.tuples(names, values), max_size=3)
bodies = st.binary(max_size=400) | st.builds(completed, st.text(max_size=10)) | st.just(b"[" * 3000) | st.just(b"")


Signed = tuple[str, bytes]
"""A tenant, and the SHA-256 of a body that its secret has signed."""


@dataclass(frozen=True, slots=True)
class Request:
    """One structured request; a signature of None is the right one."""

    method: str
    path: str
    signature: str | None
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def wire(self, endpoint: Endpoint) -> bytes:
        """Return it as it stands on the wire."""
        path = self.path or endpoint.path
        signed = signature(endpoint.secret, self.body).decode() if self.signature is None else self.signature
        lines = [f"{self.method} {path} HTTP/1.1", "host: chaos", f"x-webhook-signature: {signed}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        lines.append(f"content-length: {len(self.body)}")
        return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + self.body


requests = st.builds(
    Request,
    st.just("POST") | st.just("POST") | st.sampled_from(METHODS),
    st.just("") | st.just("") | st.sampled_from(PATHS) | st.text(max_size=30).map(lambda text: f"/webhooks/{text}"),
    st.none() | st.sampled_from(TOKENS) | st.text(st.characters(max_codepoint=255), max_size=80),
    headers.map(tuple),
    bodies,
)


def drawn(count: int, *, seed: int) -> list[Request]:
    """Draw so many structured requests."""
    found: list[Request] = []

    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        derandomize=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(requests)
    def collect(request: Request) -> None:
        found.append(request)

    collect = _seeded(collect, seed)
    collect()
    return found


def _seeded(test: Callable[[], None], number: int) -> Callable[[], None]:
    from hypothesis import seed  # noqa: PLC0415 - only here

    return seed(number)(test)


UPGRADES: Final = [
    b"upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
    b"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\n",
    b"upgrade: TLS/1.2, h2c\r\nconnection: upgrade\r\n",
    b"upgrade: h2c\r\nupgrade: x\r\nconnection: keep-alive, upgrade\r\n",
]
PIECE: Final = 65_536
PIECES: Final = 40
"""Of what has no end: 2.6 MB, if the server takes them."""


def raw(  # noqa: C901, PLR0911, PLR0912 - a list of twenty kinds
    chance: random.Random, endpoint: Endpoint, body: bytes
) -> tuple[list[bytes], bool]:
    """Return pieces to send with a pause between them, and whether to half-close behind them."""
    signed = signature(endpoint.secret, body)
    path = endpoint.path.encode()
    head = b"POST %b HTTP/1.1\r\nhost: chaos\r\nx-webhook-signature: %b\r\n" % (path, signed)
    right = head + b"content-length: %d\r\n\r\n%b" % (len(body), body)
    kind = chance.randrange(21)
    half = chance.random() < 0.5
    length = chance.choice([b"-1", b"+5", b"0x10", b"1e3", b"9" * 400, b" ", b"5, 5", b"99999999999", b"\xff", b"1_0"])
    if kind == 0:  # a length that is too large, and the end comes first
        return [head + b"content-length: %d\r\n\r\n%b" % (len(body) + 50, body)], True
    if kind == 1:  # a length that is too small: what is left is a request of its own, and is none
        return [head + b"content-length: 5\r\n\r\n" + body], half
    if kind == 2:
        return [head + b"content-length: %b\r\n\r\n%b" % (length, body)], half
    if kind == 3:  # two lengths, or a length and chunks
        return [head + b"content-length: 5\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)], half
    if kind == 4:
        return [head + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"], half
    if kind == 5:  # chunks as they should be
        return [head + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)], half
    if kind == 6:  # a chunk that is no chunk
        size = chance.choice([b"-5", b"zz", b"fffffffffffffffff", b"5;" + b"x" * 9000, b"", b"0x5", b" 5"])
        return [head + b"transfer-encoding: chunked\r\n\r\n%b\r\nhello\r\n0\r\n\r\n" % size], half
    if kind == 7:  # chunks that never end, or in the middle
        return [head + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"], half
    if kind == 8:  # several requests at once
        return [right * chance.randrange(2, 12)], half
    if kind == 9:  # a right one behind a wrong one, and the other way round
        return [right, b"NONSENSE\r\n\r\n"] if chance.random() < 0.5 else [b"NONSENSE\r\n\r\n", right], half
    if kind == 10:
        return [chance.randbytes(chance.randrange(1, 3000))], half
    if kind == 11:  # cut anywhere
        return [right[: chance.randrange(1, len(right))]], True
    if kind == 12:  # in pieces
        cuts = sorted(chance.sample(range(1, len(right)), 4))
        return [right[a:b] for a, b in zip([0, *cuts], [*cuts, len(right)], strict=True)], half
    if kind == 13:  # headers beyond every bound
        big = b"x-big: " + b"a" * chance.choice([9_000, 70_000, 200_000]) + b"\r\n"
        return [head + big + b"content-length: 0\r\n\r\n"], half
    if kind == 14:
        many = b"".join(b"x-%d: y\r\n" % number for number in range(chance.choice([50, 500, 5000])))
        return [head + many + b"content-length: %d\r\n\r\n%b" % (len(body), body)], half
    if kind == 15:  # another version, no version, line ends of another world
        version = chance.choice([b"HTTP/0.9", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"", b"http/1.1", b"HTTP/11"])
        return [right.replace(b"HTTP/1.1", version, 1)], half
    if kind == 16:
        return [right.replace(b"\r\n", chance.choice([b"\n", b"\r", b"\r\n\r\n", b"\n\r"]))], half
    if kind == 17:  # two signatures, none, or folded ones
        other = chance.choice([b"x-webhook-signature: %b\r\n" % signed, b"X-Webhook-Signature:\r\n", b" folded\r\n"])
        return [right.replace(b"content-length", other + b"content-length", 1)], half
    if kind == 18:  # a flipped bit anywhere
        place = chance.randrange(len(right))
        return [right[:place] + bytes([right[place] ^ 1 << chance.randrange(8)]) + right[place + 1 :]], half
    if kind == 19:  # an upgrade of a right request, whose body comes with it or after it
        upgraded = right.replace(b"content-length", chance.choice(UPGRADES) + b"content-length", 1)
        cut = chance.choice([len(upgraded) - len(body), len(upgraded), 40])
        return [upgraded[:cut], upgraded[cut:] or right], half
    return [right.replace(b"host: chaos\r\n", chance.choice([b"", b"host:\r\n", b"host: a\r\nhost: b\r\n"]))], half


def costly(  # noqa: PLR0911 - a list of kinds
    chance: random.Random, endpoint: Endpoint
) -> tuple[list[bytes], bool]:
    """Return a request that asks for memory or hides another one; nothing that it carries may be stored."""
    body = completed()
    signed = b"x-webhook-signature: %b\r\n" % signature(endpoint.secret, body)
    head = b"POST %b HTTP/1.1\r\nhost: chaos\r\n" % chance.choice([endpoint.path, "/webhooks/moveris/nobody"]).encode()
    chunked = head + b"transfer-encoding: chunked\r\n"
    large = b"%x\r\n%b\r\n" % (400_000, b"x" * 400_000)
    half = chance.random() < 0.5
    kind = chance.randrange(7)
    if kind == 0:  # fields below and above the bound on their number
        fields = chance.choice([b"a:\r\n", b"x: y\r\n"]) * chance.choice([200, 254, 255, 256, 257, 300, 20_000])
        return [head + fields + b"content-length: 0\r\n\r\n"], half
    if kind == 1:  # the signature as a trailer, alone or among many
        more = chance.choice([b"", b"a:\r\n" * 300, b"a: " + b"b" * 200_000 + b"\r\n"])
        return [chunked + b"\r\n%x\r\n%b\r\n0\r\n" % (len(body), body) + signed + more + b"\r\n"], half
    if kind == 2:  # fields or trailers without end
        start = chance.choice([b"", b"\r\n0\r\n", b"\r\n" + large + b"0\r\n"])
        return [chunked + start, *[b"a:\r\n" * (PIECE // 4)] * PIECES], half
    if kind == 3:  # one field, trailer or chunk extension without end
        start = chance.choice([b"a: ", b"a", b"\r\n0\r\na: ", b"\r\n1;", b"\r\n" + large + b"0\r\na: "])
        return [chunked + start, *[b"x" * PIECE] * PIECES], half
    if kind == 4:  # an upgrade without a signature, and a signed request where its body should be
        inner = b"POST %b HTTP/1.1\r\nhost: chaos\r\n%bcontent-length: %d\r\n\r\n" % (
            endpoint.path.encode(),
            signed,
            len(body),
        )
        inner += body
        outer = head + chance.choice(UPGRADES) + b"content-length: %d\r\n\r\n" % len(inner)
        return chance.choice([[outer + inner], [outer, inner], [outer[:-2], outer[-2:] + inner]]), half
    if kind == 5:  # an upgrade without a body, and a request after it that must not be taken for one inside the upgrade
        method = chance.choice([b"GET", b"POST"])
        bare = b"%b %b HTTP/1.1\r\nhost: chaos\r\n" % (method, chance.choice([b"/livez", endpoint.path.encode()]))
        return [
            bare + chance.choice(UPGRADES) + b"\r\n",
            chance.choice([b"", head + b"content-length: 0\r\n\r\n"]),
        ], half
    size = chance.choice([60_000, 300_000])  # a body without its end
    return [head + b"content-length: 1048576\r\n\r\n", b"x" * size], half


def endless(
    pool: list[Request], endpoints: list[Endpoint], chance: random.Random, signed: set[Signed]
) -> Iterator[tuple[int, list[bytes], bool]]:
    """Yield port, pieces and half-close, and note what is signed; structured requests come again with other parts.

    Half of them are structured, a tenth is costly, the others are raw.
    """
    while True:
        endpoint = chance.choice(endpoints)
        share = chance.random()
        if share < 0.1:
            yield endpoint.port, *costly(chance, endpoint)
        elif share < 0.6:
            one, two = chance.choice(pool), chance.choice(pool)
            mixed = Request(one.method, two.path, one.signature, two.headers, one.body)
            if mixed.signature is None:
                signed.add((endpoint.tenant, sha256(mixed.body).digest()))
            yield endpoint.port, [mixed.wire(endpoint)], False
        else:
            body = completed()
            signed.add((endpoint.tenant, sha256(body).digest()))
            yield endpoint.port, *raw(chance, endpoint, body)
