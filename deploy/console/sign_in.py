"""Who somebody is: by a session of the console, by the header of an authenticating proxy, or by sitting at the machine.

Guarantees:

- A session is a random token in a cookie that scripts cannot read; it ends when it is not used, and after its time.
  A page that refreshes itself is no use.
- The header counts only from the addresses that are named, if it is there once, and if the console has a user of that
  name. A session that was begun for it is valid only beside it: whoever signs out at the proxy is signed out here.
- The console that is open to everybody on its machine answers under a name of the loopback only, so that no web page
  reaches it by a name of its own, and not through a proxy. It closes as soon as it has a user.
- Passwords are guessed slowly: after `OF_A_NAME` or `OF_AN_ADDRESS` failures in a quarter of an hour one has to wait.
  A name that there is not is answered, and counted, as one that there is. Strangers can so keep a name waiting, but not
  the person out: a browser that has signed in as that person has failures of its own (`OF_A_BROWSER`) and waits for no
  others. It proves that by a cookie that is signed with the hash of the password, so another password ends it.
"""

import hashlib
import hmac
import ipaddress
import logging
import math
import secrets
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.requests import Request

from deploy.cli.connections import person as system_user
from deploy.console.passwords import is_right, rehash
from deploy.console.settings import ConsoleSettings
from shared.settings import SettingError, is_loopback
from workers.store import people
from workers.store.connect import Connection
from workers.store.people import Person
from workers.store.refusals import UnknownPersonError
from workers.store.sign_in_attempts import begin_attempt, forget

log: Final = logging.getLogger(__name__)

SESSION_COOKIE: Final = "pipeline_session"
BROWSER_COOKIE: Final = "pipeline_browser"
SECURE_PREFIX: Final = "__Host-"
"""Of the names of both cookies beyond the loopback: browsers then insist on Secure, and on this host alone."""
BROWSER_SECONDS: Final = 180 * 86_400

WINDOW_SECONDS: Final = 900
OF_A_NAME: Final = 5
OF_AN_ADDRESS: Final = 20
OF_A_BROWSER: Final = 5

_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
_OF_PROXIES: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
_PORTS: Final = {"http": 80, "https": 443}
_NETWORK_BITS: Final = 64
"""Of an IPv6 address: one machine may have all that begin with the same."""


class SignInError(Exception):
    """Somebody may not sign in; the text is for them."""


class LimitedError(SignInError):
    """Too many attempts have failed; after `seconds` another one may be made."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many attempts have failed: wait {math.ceil(seconds / 60)} min, then try again")
        self.seconds = seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Who a request comes from.

    Attributes:
        session: the token; empty in the open console.
        csrf_token: what each form must send back.
        is_new: the session was begun with this request: the response has to set the cookie.
    """

    person: Person
    session: str
    csrf_token: str
    is_new: bool = False


def may_be_open(settings: ConsoleSettings, users: int) -> bool:
    """Return whether the console is open to everybody on its machine: it has no users, and nobody else reaches it.

    Raises:
        SettingError: it has no users and would be reached from elsewhere.
    """
    if users:
        return False
    if settings.proxy_header or not _is_local(settings):
        where = settings.url or settings.host
        raise SettingError(
            f"the console has no users, and others than this machine's reach it ({where}): add one with "
            "`pipeline console add-user`, or leave CONSOLE_HOST, CONSOLE_URL and CONSOLE_PROXY_HEADER unset"
        )
    return True


class SignIn:
    """Decides who somebody is, and lets them in and out."""

    def __init__(self, settings: ConsoleSettings, *, is_open: bool) -> None:
        self._settings = settings
        self._is_open = is_open
        self._is_secure = not _is_local(settings)
        self._key = secrets.token_bytes()

    @property
    def cookie_name(self) -> str:
        """Name of the session's cookie."""
        return self.cookie_name_of(SESSION_COOKIE)

    def identify(self, connection: Connection, request: Request) -> Visitor | None:
        """Return who a request comes from; None for strangers.

        Args:
            connection: in autocommit.
            request: as the server got it; its client must be the true peer, not what a header says.
        """
        if self._is_open and people.count_people(connection) == 0:
            return self._identify_neighbour(request)
        token = request.cookies.get(self.cookie_name, "")
        proxied = self._read_header(request)
        if proxied is not None:
            return self._identify_proxied(connection, proxied, token, is_refresh=is_refresh(request))
        person = people.read_session(
            connection, token, idle_seconds=self._settings.idle_seconds, is_use=not is_refresh(request)
        )
        return None if person is None else self._visitor(person, token)

    def _identify_neighbour(self, request: Request) -> Visitor | None:
        """Return who sits at this machine, unless the request was passed on, or meant for another name."""
        is_passed_on = any(name in request.headers for name in _OF_PROXIES)
        is_local = request.client is not None and is_loopback(request.client.host)
        if is_passed_on or not is_local or not self._is_known(_host_of(request)):
            return None
        return self._visitor(Person(name=system_user(), role="admin", tenants=None), "")

    def _read_header(self, request: Request) -> str | None:
        """Return whom a proxy names, empty for nobody; None where no header is to be trusted."""
        settings = self._settings
        values = request.headers.getlist(settings.proxy_header) if settings.proxy_header else []
        peer = _peer(request)
        if not values or peer is None or not any(peer in network for network in settings.proxy_from):
            return None
        return values[0].strip() if len(values) == 1 else ""  # of two, a browser has sent one

    def _identify_proxied(self, connection: Connection, name: str, token: str, *, is_refresh: bool) -> Visitor | None:
        person = people.find_person(connection, name) if people.is_name(name) else None
        if person is None:
            return None
        settings = self._settings
        found = people.read_session(
            connection, token, idle_seconds=settings.idle_seconds, is_proxied=True, is_use=not is_refresh
        )
        if found is not None and found.name == name:
            return self._visitor(found, token)
        try:
            begun = people.start_session(connection, name, seconds=settings.session_seconds, is_proxied=True)
        except UnknownPersonError:
            return None
        return self._visitor(person, begun, is_new=True)

    def _visitor(self, person: Person, token: str, *, is_new: bool = False) -> Visitor:
        key = token.encode() or self._key
        return Visitor(person=person, session=token, csrf_token=_sign(key, "form"), is_new=is_new)

    def check_origin(self, request: Request) -> bool:
        """Return whether a request is for this console and, if it may change something, from a page of it."""
        host = _host_of(request)
        if not self._is_known(host):
            return False
        if request.method in _SAFE_METHODS:
            return True
        site = request.headers.get("sec-fetch-site")
        if site is not None:
            return site in {"same-origin", "none"}
        origin = request.headers.get("origin", "")
        own = {f"{scheme}://{host.lower()}" for scheme in _PORTS}
        if self._settings.url:
            own = {_origin(self._settings.url)} | (own if is_loopback(_name_of(host)) else set())
        return origin.lower() in own

    def _is_known(self, host: str) -> bool:
        """Return whether a request under this value of Host is meant for the console.

        Without CONSOLE_URL, one with users takes any name: a session's cookie goes to one name only.
        """
        name, url = _name_of(host), self._settings.url
        if is_loopback(self._settings.host) and is_loopback(name):
            return True
        if url:
            return name == urlsplit(url).hostname
        return bool(name) and not self._is_open

    def check_token(self, visitor: Visitor, given: str) -> bool:
        """Return whether a form was made for this visitor, in constant time."""
        return hmac.compare_digest(visitor.csrf_token.encode(), given.encode(errors="replace"))

    def sign_in(self, connection: Connection, request: Request, name: str, password: str) -> str:
        """Begin a session, and return its token for the cookie; the browser's session before it ends.

        Args:
            connection: in autocommit, outside of a transaction.
            request: that the form came with.
            name: as it was typed.
            password: the same.

        Raises:
            SignInError: name or password are wrong.
            LimitedError: too many were of late.
        """
        name = name.strip()
        known = people.find_hash(connection, name) if people.is_name(name) else None
        limits, own = self._limits(request, name, known)
        attempt = begin_attempt(connection, limits, window_seconds=WINDOW_SECONDS)
        if attempt.wait_seconds > 0:
            self._note(request, "sign_in_limited", "too many attempts to sign in have failed")
            raise LimitedError(math.ceil(attempt.wait_seconds))
        if not is_right(password, known) or known is None:
            self._note(request, "sign_in_failed", "an attempt to sign in has failed")
            raise SignInError("the name or the password is wrong")
        forget(connection, attempt, own)
        if (renewed := rehash(password, known)) is not None:
            people.renew_hash(connection, name, before=known, after=renewed)
        people.end_session(connection, request.cookies.get(self.cookie_name, ""))
        try:
            return people.start_session(connection, name, seconds=self._settings.session_seconds)
        except UnknownPersonError:
            raise SignInError("the name or the password is wrong") from None

    def _limits(self, request: Request, name: str, known: str | None) -> tuple[dict[str, int], list[str]]:
        """Return by what an attempt is counted, with the limit of each, and which of them a success clears."""
        of_name = f"name {name}"
        browser, _, signature = request.cookies.get(self.cookie_name_of(BROWSER_COOKIE), "").partition(".")
        is_theirs = hmac.compare_digest(_sign((known or "").encode(), browser).encode(), signature.encode())
        if is_theirs and known is not None:
            of_browser = f"browser {browser}"
            return {of_browser: OF_A_BROWSER}, [of_browser, of_name]
        return {of_name: OF_A_NAME, f"address {_network(request)}": OF_AN_ADDRESS}, [of_name]

    def _note(self, request: Request, code: str, text: str) -> None:
        log.warning(text, extra={"code": code, "address": request.client.host if request.client else None})

    def sign_out(self, connection: Connection, visitor: Visitor) -> None:
        """End the visitor's session."""
        if visitor.session:
            people.end_session(connection, visitor.session)

    def cookie(self, token: str) -> dict[str, Any]:
        """Return the arguments of `Response.set_cookie` for a session; for no token, of its removal."""
        return self.cookie_of(SESSION_COOKIE, token, self._settings.session_seconds)

    def browser_cookie(self, connection: Connection, name: str) -> dict[str, Any]:
        """Return the arguments of `Response.set_cookie` for a browser in which this person has just signed in."""
        known, browser = people.find_hash(connection, name.strip()), secrets.token_urlsafe(16)
        value = f"{browser}.{_sign(known.encode(), browser)}" if known else ""
        return self.cookie_of(BROWSER_COOKIE, value, BROWSER_SECONDS)

    def cookie_of(self, name: str, value: str, seconds: int) -> dict[str, Any]:
        """Return the arguments of `Response.set_cookie` for a cookie; of no value, for its removal."""
        # Lax, so that links to the console in chats and mails work; forms have a token.
        return {
            "key": self.cookie_name_of(name),
            "value": value,
            "max_age": seconds if value else 0,
            "path": "/",
            "secure": self._is_secure,
            "httponly": True,
            "samesite": "lax",
        }

    def cookie_name_of(self, name: str) -> str:
        """Return the name that a cookie has here: beyond the loopback browsers take it over https only."""
        return f"{SECURE_PREFIX}{name}" if self._is_secure else name


def is_refresh(request: Request) -> bool:
    """Return whether a page has sent this by itself, to be up to date, and nobody is there perhaps."""
    return "x-live" in request.headers


def _is_local(settings: ConsoleSettings) -> bool:
    """Return whether only this machine's browsers reach the console, as far as the settings tell."""
    by_proxy = bool(settings.url) and not is_loopback(urlsplit(settings.url).hostname or "")
    return is_loopback(settings.host) and not by_proxy and not settings.proxy_header


def _sign(key: bytes, text: str) -> str:
    return hmac.digest(key, text.encode(errors="replace"), hashlib.sha256).hex()


def _peer(request: Request) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address of the other end of the connection; None where it has none."""
    try:
        peer = ipaddress.ip_address(request.client.host if request.client else "")
    except ValueError:
        return None
    return getattr(peer, "ipv4_mapped", None) or peer


def _network(request: Request) -> str:
    """Return what counts as one address."""
    peer = _peer(request)
    if isinstance(peer, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(peer), _NETWORK_BITS), strict=False))
    return str(peer)


def _host_of(request: Request) -> str:
    """Return the Host of a request, empty if it is missing or there twice."""
    values = request.headers.getlist("host")
    return values[0].strip() if len(values) == 1 else ""


def _name_of(host: str) -> str:
    """Return the name or address of host:port, in lower case; empty for what is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _origin(url: str) -> str:
    """Return the origin of a URL, as browsers write it."""
    parts = urlsplit(url)
    name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = "" if parts.port in {None, _PORTS[parts.scheme]} else f":{parts.port}"
    return f"{parts.scheme}://{name}{port}"
