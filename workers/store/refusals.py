"""Why a change of the registry was refused; the text says what is wrong and what to do."""

from __future__ import annotations

from typing import ClassVar


class RefusedError(Exception):
    """A change that cannot be made; the text is one line that says why and what to do.

    Attributes:
        code: the same in logs and `--json`.
    """

    code: ClassVar[str] = "refused"


class BadNameError(RefusedError):
    """A name or label that the tables would refuse."""

    code = "bad_name"


class TenantExistsError(RefusedError):
    """There is a tenant of that name already."""

    code = "tenant_exists"


class UnknownTenantError(RefusedError):
    """There is no such tenant."""

    code = "unknown_tenant"


class EndpointExistsError(RefusedError):
    """The tenant has an endpoint of that provider already."""

    code = "endpoint_exists"


class UnknownEndpointError(RefusedError):
    """The tenant has no endpoint of that provider."""

    code = "unknown_endpoint"


class SecretExistsError(RefusedError):
    """The endpoint has a secret of that label already."""

    code = "secret_exists"


class UnknownSecretError(RefusedError):
    """The endpoint has no secret of that label."""

    code = "unknown_secret"


class BadSettingError(RefusedError):
    """A value of a tenant's setting that Postgres cannot hold, or not every worker can read."""

    code = "bad_setting"


class SettingsTooLargeError(RefusedError):
    """The settings of a tenant would take more room than they may."""

    code = "settings_too_large"


class PersonExistsError(RefusedError):
    """The console has a user of that name already."""

    code = "person_exists"


class UnknownPersonError(RefusedError):
    """The console has no such user."""

    code = "unknown_person"


class BadRoleError(RefusedError):
    """A role that there is not, or tenants of a person who is no operator."""

    code = "bad_role"


class BadPasswordError(RefusedError):
    """A password that nobody should have."""

    code = "bad_password"
