#!/bin/sh
# Updates requirements.lock and requirements-dev.lock from pyproject.toml. Every package is pinned and hashed; the files
# are the same for Linux, macOS and every Python from 3.11 on. The first has the runtime and build packages, the second
# the additional packages for tests, lint and types. Pinned versions are kept; `tools/lock.sh --upgrade` uses the newest
# versions that pyproject.toml allows.
set -eu
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if command -v uv >/dev/null 2>&1; then
  uv=uv
else
  # Not in .venv: this must also work when a lock cannot be installed.
  "${PYTHON:-python3}" -m venv "$scratch/venv"
  "$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'uv==0.13.9'
  uv=$scratch/venv/bin/uv
fi

# compile FILE OPTION... : no header, index or path, so that the lock does not depend on this machine's package index.
compile() {
  file=$1
  shift
  [ ! -f "$file" ] || cp "$file" "$scratch/$file"
  "$uv" pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-header \
    --no-emit-index-url --no-emit-find-links --output-file "$scratch/$file" "$@" >/dev/null
}

# Prints the entries of the second lock whose package the first lacks: package, marker, hashes and what requires it. The
# markers of the first exclude only platforms that the tests do not run on.
beyond() {
  awk '
    /^[a-zA-Z0-9]/ { wanted = !(FILENAME == ARGV[2] && $1 in running); if (FILENAME == ARGV[1]) running[$1] = 1 }
    FILENAME == ARGV[2] && !/^# Made by/ && wanted' "$1" "$2"
}

made_by='# Made by `make lock` from pyproject.toml; not edited by hand.'
compile requirements.lock --group build "$@"
{
  echo "$made_by For running; install it with --no-deps."
  grep -v '^# Made by' "$scratch/requirements.lock"
} >"$scratch/running"
# Packages needed by both have the versions of the first lock.
compile requirements-dev.lock --group build --group dev --constraint "$scratch/requirements.lock" "$@"
{
  echo "$made_by For tests and checks, beyond requirements.lock; install it with --no-deps."
  beyond "$scratch/requirements.lock" "$scratch/requirements-dev.lock"
} >"$scratch/developing"
mv "$scratch/running" requirements.lock
mv "$scratch/developing" requirements-dev.lock
