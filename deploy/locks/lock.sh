#!/bin/sh
# Writes the lock files: every package pinned with its hashes, for Linux and macOS, Python 3.11 and newer.
# No index and no URL gets into them: where packages come from is the business of whoever installs them.
set -eu
cd "$(dirname "$0")/../.."
locks=deploy/locks
tool=$(mktemp -d)
trap 'rm -rf "$tool"' EXIT

"${PYTHON:-python3}" -m venv "$tool"
"$tool/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$locks/lock.txt"

compile() {
  output=$locks/$1.txt
  shift
  "$tool/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
    --no-emit-index-url --no-emit-find-links ${UPGRADE:+--upgrade} --output-file "$output" "$@"
}

compile dev --extra dev --constraints "$locks/platforms.in" pyproject.toml
# what is deployed has the versions that were tested
compile ingress --extra ingress --constraints "$locks/dev.txt" pyproject.toml
compile workers --extra workers --constraints "$locks/dev.txt" pyproject.toml
compile flower --extra workers --extra flower --constraints "$locks/dev.txt" pyproject.toml
compile console --extra console --constraints "$locks/dev.txt" pyproject.toml
compile otel --extra otel --constraints "$locks/dev.txt" pyproject.toml
compile build "$locks/build.in"
compile checks "$locks/checks.in"
compile lock "$locks/lock.in"
