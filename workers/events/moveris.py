"""Moveris: results of liveness verifications.

A `VerificationCompleted` carries a verdict and scores that a handler may decide on. Fields and event types that are new
stay reachable. `Rejected` refuses a verdict other than live or fake, scores that are not numbers in their range, a
missing field, times without a zone, and two session ids that contradict each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from shared.envelope import EPOCH
from workers.events.model import (
    CACHE_STRINGS,
    EARLIEST,
    LATEST,
    MAX_NAME,
    GenericEvent,
    Parsed,
    Rejected,
    body_fingerprint,
    identity_fingerprint,
    instant_or_none,
    name_or_none,
    note_mismatches,
)
from workers.events.strict_json import read_object

if TYPE_CHECKING:
    from datetime import datetime

    from workers.events.model import Headers

PROVIDER: Final = "moveris"

# Strict: "0.94" and true are no numbers. Open: unknown fields are kept and reachable as attributes.
_OPEN: Final = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False, cache_strings=CACHE_STRINGS)

_Model = TypeVar("_Model", bound=BaseModel)
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
Share = Annotated[float, Field(ge=0, le=1)]
Instant = Annotated[AwareDatetime, Field(ge=EARLIEST, lt=LATEST)]


class Verification(BaseModel):
    """The result of one check of one session by one model."""

    model_config = _OPEN

    verdict: Literal["live", "fake"] = Field(description="what the model decided: live is a live person")
    confidence: Share = Field(description="how sure the model is of its verdict, 0 to 1")
    real_score: Share = Field(description="how real the person looks, 0 (fake) to 1 (live)")
    score: Annotated[float, Field(ge=0, le=100)] = Field(description="the same for people, 0 (fake) to 100 (live)")
    model: Name = Field(description='the model that judged, such as "mixed-30-v2"')
    created_at: Instant = Field(description="when the result was made, by the clock of Moveris, with its zone")
    session_id: Name | None = Field(default=None, description="the event's session_id again")
    type: str | None = Field(default=None, description='band of the score, such as "VERY HIGH"; new ones may come')
    input_source: str | None = Field(default=None, description='such as "rest_frames"; new ones may come')
    processing_ms: float | None = Field(default=None, description="time that the model took, milliseconds")
    frames_processed: int | None = Field(default=None, description="number of frames that the model looked at")
    tenant_metadata: dict[str, Any] | None = Field(default=None, description="what the tenant gave at submission")
    warning: Any = Field(default=None, description="what was odd about the input, in any form; null if nothing was")


class _MoverisEvent(BaseModel):
    """What all Moveris events have."""

    model_config = _OPEN

    session_id: Name = Field(description="the session that was checked, 1 to 200 characters")
    timestamp: Instant = Field(description="when the event was made, by the clock of Moveris, with its zone")

    @property
    def provider(self) -> str:
        """Always "moveris"."""
        return PROVIDER

    @property
    def subject(self) -> str:
        """The session's id."""
        return self.session_id

    @property
    def occurred_at(self) -> datetime:
        """The event's `timestamp`, aware."""
        return self.timestamp


class VerificationCompleted(_MoverisEvent):
    """A verification has come to a verdict."""

    event: Literal["verification.completed"] = Field(description="the event type")
    data: Verification = Field(description="the result")

    @property
    def type(self) -> str:
        """The event type."""
        return self.event


class VerificationFailed(_MoverisEvent):
    """Processing failed; there is no verdict, `data` describes the error as the provider sees fit."""

    event: Literal["verification.failed"] = Field(description="the event type")
    data: dict[str, Any] = Field(description="the error, in the provider's own form")

    @property
    def type(self) -> str:
        """The event type."""
        return self.event


def parse(provider: str, body: bytes, headers: Headers) -> Parsed:
    """Read one body.

    1. Read the JSON strictly; `event` must be a name.
    2. A known event must fit its model, an unknown one becomes a generic event.
    3. Note where the unsigned headers contradict the body.

    Raises:
        Rejected: see above.
    """
    tree = read_object(body)
    kind = name_or_none(tree.get("event"))
    if kind is None:
        raise Rejected("schema_mismatch", f"event: a text of 1 to {MAX_NAME} characters is expected")
    event: VerificationCompleted | VerificationFailed | GenericEvent
    fingerprint: bytes | None = None
    signed_at: datetime | None = None
    if kind == "verification.completed":
        event = _load_completed(body)
        fingerprint = _identify(event)
        signed_at = event.data.created_at
    elif kind == "verification.failed":
        event = _load_failed(body)
    else:
        event = GenericEvent(
            provider=provider,
            type=kind,
            subject=name_or_none(tree.get("session_id")),
            occurred_at=instant_or_none(tree.get("timestamp")),
            body=body,
        )
    return Parsed(
        type=kind,
        subject=event.subject,
        occurred_at=event.occurred_at,
        fingerprint=fingerprint or body_fingerprint(body),
        event=event,
        signed_at=signed_at or event.occurred_at,
        notes=note_mismatches(headers, ((b"x-webhook-event", kind), (b"x-webhook-session", event.subject))),
    )


def _load_completed(body: bytes) -> VerificationCompleted:
    event = _validate(VerificationCompleted, body)
    _refuse_two_sessions(event.session_id, event.data.session_id)
    return event


def _load_failed(body: bytes) -> VerificationFailed:
    event = _validate(VerificationFailed, body)
    _refuse_two_sessions(event.session_id, event.data.get("session_id"))
    return event


LOADERS: Final = {"verification.completed": _load_completed, "verification.failed": _load_failed}


def _validate(model: type[_Model], body: bytes) -> _Model:
    """Read a body by its model alone."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise Rejected("schema_mismatch", _describe(error)) from None


def _identify(event: VerificationCompleted) -> bytes:
    """Return the fingerprint: a session may be judged by several models, and by one model again later.

    `created_at` counts as an instant, not as text, so that "Z" and "+00:00" are the same event.
    """
    data = event.data
    since = data.created_at - EPOCH
    created = f"{since.days}:{since.seconds}:{since.microseconds}"
    return identity_fingerprint(PROVIDER, event.event, event.session_id, data.model, created)


def _refuse_two_sessions(session: str, inner: object) -> None:
    """Refuse an event whose two session ids differ: one handler would act on the one, the next on the other."""
    if inner is not None and inner != session:
        raise Rejected("session_mismatch", "session_id and data.session_id differ")


def _describe(error: ValidationError) -> str:
    """Name the fields at fault, without their values."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults[:5])
