#!/bin/sh
# Installs tests/javascript/node_modules from its lock, for the tests that publish from JavaScript. As root on Debian it
# also installs missing Node.js and npm. Returns at once if everything is up to date.
set -eu
cd "$(dirname "$0")/../tests/javascript"

say() { printf 'coordinator: %s\n' "$*" >&2; }

good() { [ -f node_modules/.stamp ] && cmp -s package-lock.json node_modules/.stamp; }

have() { command -v node >/dev/null 2>&1 && command -v npm >/dev/null 2>&1; }

install_node() {
  command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" -eq 0 ] || return 1
  say "installing nodejs and npm"
  DEBIAN_FRONTEND=noninteractive
  export DEBIAN_FRONTEND
  apt-get update -qq >/dev/null 2>&1 || : # an old package list often works
  apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 nodejs npm >/dev/null
}

if ! have && ! { install_node && have; }; then
  say "needs Node.js 18 or newer and npm:"
  say "  Debian, Ubuntu:  sudo apt-get install nodejs npm"
  say "  macOS:           brew install node"
  exit 2
fi
if ! good; then
  npm ci --no-audit --no-fund --ignore-scripts --loglevel=error >&2
  cp package-lock.json node_modules/.stamp
fi
