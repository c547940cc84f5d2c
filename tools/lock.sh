#!/bin/sh
# Renews requirements.lock and requirements-dev.lock from pyproject.toml: every package pinned and hashed, the same files
# for Linux and macOS and every Python from 3.11 on. The first holds what runs, and what installs the checkout; the second
# what tests, lint and types need beyond it. What is pinned stays as it is; `tools/lock.sh --upgrade` takes the newest
# that pyproject.toml allows.
set -eu
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if command -v uv >/dev/null 2>&1; then
  uv=uv
else
  # Not in .venv: when a lock can no longer be installed, this is what mends it.
  "${PYTHON:-python3}" -m venv "$scratch/venv"
  "$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'uv==0.13.9'
  uv=$scratch/venv/bin/uv
fi

# compile FILE OPTION... : no header, index or path; a lock says what is installed, not where this machine gets it.
compile() {
  file=$1
  shift
  [ ! -f "$file" ] || cp "$file" "$scratch/$file"
  "$uv" pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-header \
    --no-emit-index-url --no-emit-find-links --output-file "$scratch/$file" "$@" >/dev/null
}

# Prints what of the second lock the first has not, line by line: a package, its marker, its hashes and who wants it.
beyond() {
  awk '
    /^[a-zA-Z0-9]/ { wanted = !(FILENAME == ARGV[2] && $0 in running); if (FILENAME == ARGV[1]) running[$0] = 1 }
    FILENAME == ARGV[2] && !/^# Made by/ && wanted' "$1" "$2"
}

made_by='# Made by `make lock` from pyproject.toml; not edited by hand.'
compile requirements.lock --group build "$@"
{
  echo "$made_by For running; install it with --no-deps."
  grep -v '^# Made by' "$scratch/requirements.lock"
} >"$scratch/running"
# The versions of what both need are those of the first.
compile requirements-dev.lock --group build --group dev --constraint "$scratch/requirements.lock" "$@"
{
  echo "$made_by For tests and checks, beyond requirements.lock; install it with --no-deps."
  beyond "$scratch/requirements.lock" "$scratch/requirements-dev.lock"
} >"$scratch/developing"
mv "$scratch/running" requirements.lock
mv "$scratch/developing" requirements-dev.lock
