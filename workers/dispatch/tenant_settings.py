"""What a handler is told about the tenant of a delivery: the settings that people have given it.

Guarantees: a setting that is missing or wrong is a `SettingsError` that names it, the tenant and the command, so that
people see one cause, not a `KeyError` in each handler's own words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from workers.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator


class TenantSettings(Mapping[str, Any]):
    """The settings of a tenant by name, values as in JSON; to look one up that is not set raises `SettingsError`."""

    def __init__(self, tenant: str, values: Mapping[str, Any]) -> None:
        self._tenant = tenant
        self._values = values

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise SettingsError(
                f"the setting {name} is missing for the tenant {self._tenant!r}: "
                f"`pipeline tenants set {self._tenant} {name}=…`"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._tenant!r}, {list(self._values)})"


def read_settings(model: type[BaseModel] | None, tenant: str, values: Mapping[str, Any]) -> Any:
    """Return a tenant's settings as a handler asks for them: by its model, or by name.

    Args:
        model: of the handler.
        tenant: whose settings they are.
        values: as they are stored.

    Raises:
        SettingsError: they do not fit the model.
    """
    if model is None:
        return TenantSettings(tenant, values)
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        wrong = {".".join(map(str, it["loc"])) or "all": it["msg"] for it in error.errors(include_input=False)}
        told = "; ".join(f"{name} ({message})" for name, message in sorted(wrong.items()))
        raise SettingsError(
            f"the settings are wrong that {model.__name__} asks for: {told}, for the tenant {tenant!r}: "
            f"`pipeline tenants set {tenant} {next(iter(sorted(wrong)))}=…`"
        ) from None
