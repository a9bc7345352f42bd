"""GitHub: the type is `X-GitHub-Event`, with the body's `action` after a dot: `push`, `pull_request.opened`, `ping`.

GitHub signs the body alone. Its delivery id and its event name are headers that anybody on the way could change, so the
identity is the SHA-256 of the body: a redelivery, which has the same bytes, is a duplicate whatever its headers say,
and the type that counts is the first one. The body holds no time of the event.

Handlers get `event.json()` and the exact bytes. `Rejected` refuses what `strict_json` refuses, and the
content type `application/x-www-form-urlencoded`, which GitHub offers too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from workers.events.model import GenericEvent, Parsed, Rejected, body_fingerprint, header_or_none, name_or_none
from workers.events.strict_json import read_object

if TYPE_CHECKING:
    from workers.events.model import Headers

PROVIDER: Final = "github"
UNKNOWN: Final = "unknown"
_NAME: Final = re.compile(r"[a-z0-9_]{1,60}")
_FORM: Final = "application/x-www-form-urlencoded"
_NUMBERED: Final = ("pull_request", "issue", "discussion")


def parse(provider: str, body: bytes, headers: Headers) -> Parsed:
    """Read one body.

    Raises:
        Rejected: see above.
    """
    if (header_or_none(headers, b"content-type") or "").startswith(_FORM):
        raise Rejected("form_encoded", "choose the content type application/json in the webhook's settings at GitHub")
    tree = read_object(body)
    kind = _type(header_or_none(headers, b"x-github-event"), tree.get("action"))
    event = GenericEvent(provider=provider, type=kind, subject=_subject(tree), occurred_at=None, body=body)
    return Parsed(type=kind, subject=event.subject, occurred_at=None, fingerprint=body_fingerprint(body), event=event)


def _type(name: str | None, action: object) -> str:
    if name is None or not _NAME.fullmatch(name):
        return UNKNOWN
    return f"{name}.{action}" if isinstance(action, str) and _NAME.fullmatch(action) else name


def _subject(tree: dict[str, Any]) -> str | None:
    """Return the repository, with the number of the issue, pull request or discussion; else the organization."""
    repository = name_or_none(_at(tree, "repository", "full_name"))
    if repository is None:
        return name_or_none(_at(tree, "organization", "login"))
    numbers = (number for key in _NUMBERED if isinstance(number := _at(tree, key, "number"), int))
    number = next(numbers, None)
    return repository if number is None else name_or_none(f"{repository}#{number}")


def _at(tree: dict[str, Any], key: str, inner: str) -> object:
    value = tree.get(key)
    return value.get(inner) if isinstance(value, dict) else None
