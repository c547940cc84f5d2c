#!/bin/sh
# Renews requirements.lock from pyproject.toml: every package pinned and hashed, one file for Linux and macOS and every
# Python from 3.11 on. What is pinned stays as it is; `tools/lock.sh --upgrade` takes the newest that pyproject.toml allows.
set -eu
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if command -v uv >/dev/null 2>&1; then
  uv=uv
elif [ -x .venv/bin/uv ]; then
  uv=.venv/bin/uv
else
  .venv/bin/python -m pip install -q --target "$scratch/uv" 'uv==0.13.9'
  uv=$scratch/uv/bin/uv
fi

# No header, index or path: the lock says what is installed, not where this machine gets it.
[ ! -f requirements.lock ] || cp requirements.lock "$scratch/requirements.lock"
"$uv" pip compile pyproject.toml --quiet --universal --python-version 3.11 --group dev \
  --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --output-file "$scratch/requirements.lock" "$@" >/dev/null
{
  echo "# Made by \`make lock\` from pyproject.toml; not edited by hand."
  grep -v '^# Made by' "$scratch/requirements.lock"
} >requirements.lock
