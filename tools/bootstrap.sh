#!/bin/sh
# Creates .venv from requirements.lock, and again when the lock or the Python has changed; with `--dev` it also installs
# requirements-dev.lock. Returns at once if everything is up to date. An incomplete .venv must never look complete: a stamp
# is written last, and removed before anything is added.
#
# A lock is installed with --no-deps: pip's resolver treats each `name[extra]` that a package requires as a separate
# requirement, takes its newest version, and rejects it because it has no hash. A complete lock needs no resolver; `pip check`
# then reports missing packages. Only wheels are installed: a source package would be built with unpinned build tools.
#
# Uses $PYTHON, else the first of python3.13, python3.12, python3.11 (all tested), python3.14 and python3 that is 3.11 or
# newer and has the required modules. Exits with 2 and instructions if there is none. $WITH_PIP, such as `pip==22.3`,
# replaces the venv's own pip, for `make check-install`.
set -eu
cd "$(dirname "$0")/.."

# The user's settings for Python and pip must not affect the venv.
unset PYTHONHOME PYTHONPATH 2>/dev/null || :
stamp=.venv/bootstrap-stamp
newest_with_wheels=3.14
dev='' locked=''
for argument; do
  case $argument in
    --dev) dev=--dev ;;
    --locked) locked=yes ;;
    *)
      echo "usage: tools/bootstrap.sh [--dev]" >&2
      exit 2
      ;;
  esac
done

say() { printf 'coordinator: %s\n' "$*" >&2; }

# Everything that .venv depends on. The folder is included because a venv has absolute paths.
lock_fingerprint() {
  "$1" -I -c '
import hashlib, os, platform, sys
lock = hashlib.sha256(open("requirements.lock", "rb").read()).hexdigest()
print(lock, platform.python_implementation(), platform.python_version(), platform.machine(), os.getcwd())'
}

dev_fingerprint() {
  "$1" -I -c 'import hashlib; print(hashlib.sha256(open("requirements-dev.lock", "rb").read()).hexdigest())'
}

project_fingerprint() {
  "$1" -I -c 'import hashlib; print(hashlib.sha256(open("pyproject.toml", "rb").read()).hexdigest())'
}

# Prints the real interpreter of *command* if it is usable: not a shim and not a venv, which may be the one to replace.
# Exit 1: does not run. 3: too old, or standard library modules are missing. 4: only venv or ensurepip is missing.
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

# Sets $python, or $without_venv if only venv is missing.
find_python() {
  python='' without_venv=''
  for candidate in ${PYTHON:+"$PYTHON"} python3.13 python3.12 python3.11 python3.14 python3; do
    rc=0
    found=$(probe "$candidate") || rc=$?
    if [ "$rc" -eq 0 ]; then
      python=$found
      return 0
    fi
    if [ -n "${PYTHON:-}" ]; then
      case $rc in
        4) without_venv=$found ;;
        3) say "PYTHON=$PYTHON is older than 3.11 or lacks ssl, sqlite3, zlib or ctypes" ;;
        *) say "PYTHON=$PYTHON does not run" ;;
      esac
      return 1
    fi
    if [ "$rc" -eq 4 ] && [ -z "$without_venv" ]; then without_venv=$found; fi
  done
  return 1
}

say_what_to_install() {
  say "Python 3.11 or newer with venv is required. Install it and run this again:"
  say "  Debian, Ubuntu:  sudo apt-get install python3 python3-venv"
  say "  macOS:           brew install python"
  say "or set PYTHON:     PYTHON=/path/to/python3 make demo"
}

# Debian packages venv and ensurepip separately; as root, install them.
install_venv() {
  command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" -eq 0 ] || return 1
  name_package='import sys; print("python%d.%d-venv" % sys.version_info[:2])'
  package=$("$without_venv" -I -c "$name_package")
  if [ "$(/usr/bin/python3 -I -c "$name_package" 2>/dev/null)" = "$package" ]; then package=python3-venv; fi
  say "installing $package, a separate package on Debian"
  DEBIAN_FRONTEND=noninteractive
  export DEBIAN_FRONTEND
  apt-get update -qq >"$log" 2>&1 || : # an old package list often works
  apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "$package" >>"$log" 2>&1 && return 0
  tail -n 5 "$log" >&2
  return 1
}

good() { [ -x .venv/bin/python ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(lock_fingerprint .venv/bin/python 2>/dev/null)" ]; }

# $PYTHON, if set, must have the version that .venv was created with.
wanted() {
  [ -z "${PYTHON:-}" ] || [ "$(lock_fingerprint "$PYTHON" 2>/dev/null)" = "$(cat "$stamp")" ]
}

# The development packages are installed, if --dev was given.
developing() {
  [ -z "$dev" ] || { [ -f "$stamp.dev" ] && [ "$(cat "$stamp.dev")" = "$(dev_fingerprint .venv/bin/python)" ]; }
}

installed() { [ -f "$stamp.project" ] && [ "$(cat "$stamp.project")" = "$(project_fingerprint .venv/bin/python)" ]; }

whole() { good && wanted && developing && installed; }

fail() {
  say "$1; the last lines were:"
  tail -n 15 "$log" >&2
  exit 1
}

# Of the user's settings for pip, in variables and in files, only those count that say where packages come from. Others,
# such as `user`, `target`, `python` or `require-hashes`, would install elsewhere, or not at all.
pip() {
  .venv/bin/python -I -c '
import ast, os, subprocess, sys
where = ("index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "cert", "client-cert", "proxy", "timeout")
where += ("retries", "cache-dir", "no-cache-dir")
pip = [sys.executable, "-I", "-m", "pip"]
own = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
ask = own | {name: os.environ[name] for name in ("PIP_CONFIG_FILE",) if name in os.environ}
listed = subprocess.run([*pip, "config", "list"], env=ask, capture_output=True, text=True).stdout.splitlines()
for line in listed:
    key, _, value = line.partition("=")
    name = key.rpartition(".")[2]
    if name in where:
        own["PIP_" + name.upper().replace("-", "_")] = str(ast.literal_eval(value))
for name in where:
    variable = "PIP_" + name.upper().replace("-", "_")
    if os.environ.get(variable):
        own[variable] = os.environ[variable]
own["PIP_CONFIG_FILE"] = os.devnull
os.execve(sys.executable, [*pip, *sys.argv[1:]], own)' "$@" --no-input --disable-pip-version-check >"$log" 2>&1
}

install_lock() {
  if ! pip install --quiet --no-deps --require-hashes --only-binary :all: -r "$1"; then
    .venv/bin/python -I -c "import sys; sys.exit(sys.version_info[:2] > tuple(map(int, '$newest_with_wheels'.split('.'))))" ||
      say "the pinned packages may have no wheels for a Python newer than $newest_with_wheels; use an older one: PYTHON=/path/to/python3"
    fail "installing $1 failed"
  fi
}

# No build isolation: it would download an unpinned build backend; the lock includes it.
install_project() {
  pip install --quiet --no-deps --no-build-isolation --editable . || fail "installing the project itself failed"
  project_fingerprint .venv/bin/python >"$stamp.project"
}

# .venv counts as complete only when its stamp is written.
finish() {
  pip check || fail "the packages in .venv are not compatible"
  if [ -n "$dev" ]; then dev_fingerprint .venv/bin/python >"$stamp.dev"; fi
  lock_fingerprint .venv/bin/python >"$stamp.new"
  mv "$stamp.new" "$stamp"
}

pinned() { cat "$@" | grep -c '^[a-zA-Z0-9]'; }

make_venv() {
  if ! find_python; then
    if [ -z "$without_venv" ] || ! install_venv || ! find_python; then
      say_what_to_install
      exit 2
    fi
  fi
  # Keep the development packages once installed; otherwise they would come and go with every other command.
  if [ -f "$stamp.dev" ]; then dev=--dev; fi
  count=$(pinned requirements.lock ${dev:+requirements-dev.lock})
  say "creating .venv with $("$python" --version) and installing $count pinned packages (once; about 30 s)"
  rm -f "$stamp"
  rm -rf .venv
  "$python" -I -m venv .venv >"$log" 2>&1 || fail "python -m venv failed"
  if [ -n "${WITH_PIP:-}" ]; then pip install --quiet --upgrade "$WITH_PIP" || fail "installing $WITH_PIP failed"; fi
  install_lock requirements.lock
  if [ -n "$dev" ]; then install_lock requirements-dev.lock; fi
  install_project
  finish
}

add_dev() {
  say "installing $(pinned requirements-dev.lock) pinned packages for tests and checks (once)"
  rm -f "$stamp"
  install_lock requirements-dev.lock
  finish
}

if whole; then exit 0; fi
if [ ! -w . ]; then
  say "cannot create .venv: no write permission in $(pwd)"
  exit 1
fi

# One bootstrap at a time. The lock on this file belongs to the process, so that no stale lock can remain.
if [ -z "$locked" ]; then
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
    print("coordinator: waiting for another bootstrap to finish", file=sys.stderr, flush=True)
    fcntl.flock(lock, fcntl.LOCK_EX)
os.set_inheritable(lock, True)
os.execv("/bin/sh", ["/bin/sh", "tools/bootstrap.sh", "--locked", *sys.argv[1:]])' $dev
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# A venv with development packages of another lock may have too many packages: create it again.
if ! good || ! wanted || { [ -f "$stamp.dev" ] && ! developing; }; then
  make_venv
else
  developing || add_dev
  installed || install_project
fi
