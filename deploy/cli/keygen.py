"""The command `pipeline keygen`."""

from __future__ import annotations

from cryptography.fernet import Fernet

from deploy.cli.output import AsJson, say


def keygen(*, as_json: AsJson = False) -> None:
    """Print a new key for SECRETS_KEY, which encrypts the endpoints' secrets.

    Ingress and workers need the same value.
    To change it, put the new key first and keep the old one behind a comma.

    Examples:
        export SECRETS_KEY=$(pipeline keygen)
    """
    key = Fernet.generate_key().decode()
    say({"secrets_key": key}, as_json=as_json, lines=[key])
