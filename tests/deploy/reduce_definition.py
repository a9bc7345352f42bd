"""Reduce the definition of a kind that is not Kubernetes' own (a CRD) to what `test_kubernetes.py` checks objects with.

    curl -L URL | .venv/bin/python -m tests.deploy.reduce_definition URL > tests/deploy/definitions/KIND.json

It keeps the schema of each version that is served, without descriptions and status, and says where it is from.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from tests.deploy.checks import read_yaml

DROPPED = {"description", "default", "x-kubernetes-list-map-keys", "x-kubernetes-list-type", "x-kubernetes-map-type"}


def reduce(schema: Any, *, names: bool = False) -> Any:
    """Return a schema without what says nothing about which objects are right.

    Args:
        schema: or a part of one.
        names: it is a mapping of names to schemas, all of which stay.
    """
    if isinstance(schema, list):
        return [reduce(it) for it in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: reduce(value, names=key == "properties" and not names)
        for key, value in schema.items()
        if names or key not in DROPPED
    }


def main() -> None:
    """Read a definition, print the reduced one."""
    (definition,) = read_yaml(sys.stdin.read())
    versions = {}
    for version in definition["spec"]["versions"]:
        if version["served"]:
            schema = reduce(version["schema"]["openAPIV3Schema"])
            schema["properties"].pop("status", None)
            versions[version["name"]] = schema
    found = {"source": sys.argv[1], "licence": "Apache-2.0", "versions": versions}
    json.dump(found, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
