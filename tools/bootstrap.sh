#!/bin/sh
# Makes .venv from requirements.lock, and renews it when the lock or the Python has changed. Takes no time when there is
# nothing to do. It must never leave behind a half-made .venv that looks whole: the stamp is written last.
#
# Uses $PYTHON, else the first of python3.14 … python3.11, python3 that is 3.11 or newer and has all it needs.
# Exits 2 when there is none, saying what to install.
set -eu
cd "$(dirname "$0")/.."

# A user's own settings for Python and pip must not reach into the venv.
unset PYTHONHOME PYTHONPATH PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV 2>/dev/null || :
stamp=.venv/bootstrap-stamp

say() { printf 'coordinator: %s\n' "$*" >&2; }

# What must be equal for .venv to be good. A moved folder counts: the venv holds absolute paths.
lock_fingerprint() {
  "$1" -I -c '
import hashlib, os, platform, sys
lock = hashlib.sha256(open("requirements.lock", "rb").read()).hexdigest()
print(lock, platform.python_implementation(), platform.python_version(), platform.machine(), os.getcwd())'
}

project_fingerprint() {
  "$1" -I -c 'import hashlib; print(hashlib.sha256(open("pyproject.toml", "rb").read()).hexdigest())'
}

# Prints the interpreter behind *command* when it serves: not a shim and not a venv, which may be the one to be replaced.
# Exit 1: does not run. 3: too old, or a part of its standard library is missing. 4: only venv or ensurepip is missing.
probe() {
  "$1" -I -c '
import sys
if sys.version_info < (3, 11):
    sys.exit(3)
try:
    import ctypes, sqlite3, ssl, zlib
except ImportError:
    sys.exit(3)
print(getattr(sys, "_base_executable", "") or sys.executable)
try:
    import ensurepip, venv
except ImportError:
    sys.exit(4)' 2>/dev/null
}

# Sets $python and, when only venv is missing, $without_venv.
find_python() {
  python='' without_venv=''
  for candidate in ${PYTHON:+"$PYTHON"} python3.14 python3.13 python3.12 python3.11 python3; do
    rc=0
    found=$(probe "$candidate") || rc=$?
    if [ "$rc" -eq 0 ]; then
      python=$found
      return 0
    fi
    if [ -n "${PYTHON:-}" ]; then
      case $rc in
        4) without_venv=$found ;;
        3) say "PYTHON=$PYTHON is older than 3.11, or was built without ssl, sqlite3, zlib or ctypes" ;;
        *) say "PYTHON=$PYTHON does not run" ;;
      esac
      return 1
    fi
    if [ "$rc" -eq 4 ] && [ -z "$without_venv" ]; then without_venv=$found; fi
  done
  return 1
}

say_what_to_install() {
  say "needs Python 3.11 or newer with venv. Install it and run this again:"
  say "  Debian, Ubuntu:  sudo apt-get install python3 python3-venv"
  say "  macOS:           brew install python"
  say "or name one:       PYTHON=/path/to/python3 make demo"
}

# Debian splits venv and ensurepip off; root may as well fetch them.
install_venv() {
  command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" -eq 0 ] || return 1
  name_package='import sys; print("python%d.%d-venv" % sys.version_info[:2])'
  package=$("$without_venv" -I -c "$name_package")
  if [ "$(/usr/bin/python3 -I -c "$name_package" 2>/dev/null)" = "$package" ]; then package=python3-venv; fi
  say "installing $package, which Debian keeps apart from Python"
  DEBIAN_FRONTEND=noninteractive
  export DEBIAN_FRONTEND
  apt-get update -qq >"$log" 2>&1 || : # an old list often still serves
  apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "$package" >>"$log" 2>&1 && return 0
  tail -n 5 "$log" >&2
  return 1
}

good() { [ -x .venv/bin/python ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(lock_fingerprint .venv/bin/python 2>/dev/null)" ]; }

# $PYTHON, when given, must be the version that .venv was made with.
wanted() {
  [ -z "${PYTHON:-}" ] || [ "$(lock_fingerprint "$PYTHON" 2>/dev/null)" = "$(cat "$stamp")" ]
}

installed() { [ -f "$stamp.project" ] && [ "$(cat "$stamp.project")" = "$(project_fingerprint .venv/bin/python)" ]; }

fail() {
  say "$1; the last lines were:"
  tail -n 15 "$log" >&2
  exit 1
}

make_venv() {
  if ! find_python; then
    if [ -z "$without_venv" ] || ! install_venv || ! find_python; then
      say_what_to_install
      exit 2
    fi
  fi
  count=$(grep -c '^[a-zA-Z0-9]' requirements.lock)
  say "making .venv with $("$python" --version) and installing $count pinned packages; this takes about half a minute, once"
  rm -rf .venv
  "$python" -I -m venv .venv >"$log" 2>&1 || fail "python -m venv failed"
  .venv/bin/python -I -m pip install --quiet --no-input --disable-pip-version-check \
    --require-hashes -r requirements.lock >"$log" 2>&1 || fail "installing the packages failed"
  install_project
  lock_fingerprint .venv/bin/python >"$stamp.new"
  mv "$stamp.new" "$stamp"
}

# No build isolation: it would fetch the build backend unpinned; the lock holds it.
install_project() {
  .venv/bin/python -I -m pip install --quiet --no-input --disable-pip-version-check \
    --no-deps --no-build-isolation --editable . >"$log" 2>&1 || fail "installing the project itself failed"
  project_fingerprint .venv/bin/python >"$stamp.project"
}

if good && wanted && installed; then exit 0; fi
if [ ! -w . ]; then
  say "cannot write in $(pwd), where .venv belongs"
  exit 1
fi

# One at a time. The lock belongs to the process, on this file, so that it cannot be left behind.
if [ "${1:-}" != --locked ]; then
  locker=.venv/bin/python
  "$locker" -I -c 'import fcntl' 2>/dev/null || { find_python && locker=$python; } || locker=$without_venv
  if [ -z "$locker" ]; then
    say_what_to_install
    exit 2
  fi
  exec "$locker" -I -c '
import fcntl, os, sys
lock = os.open("tools/bootstrap.sh", os.O_RDONLY)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("coordinator: waiting for another bootstrap to end", file=sys.stderr, flush=True)
    fcntl.flock(lock, fcntl.LOCK_EX)
os.set_inheritable(lock, True)
os.execv("/bin/sh", ["/bin/sh", "tools/bootstrap.sh", "--locked"])'
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
if ! good || ! wanted; then
  make_venv
elif ! installed; then
  install_project
fi
