#!/usr/bin/env bash
# Makes the virtual environment that the Makefile's targets run in. Usage: scripts/setup.sh demo|dev
#
# The first call creates .venv, installs torch (the CPU build where there is no NVIDIA GPU) and this package with the
# extra of that name. A stamp beside it makes later calls instant, until pyproject.toml changes.
#   PYTHON=python3.12   the interpreter to use          VENV=.venv   where the environment goes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extra="${1:-dev}"
venv="${VENV:-.venv}"
say() { printf 'sattxt set-up: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

case "$extra" in
  demo | dev) ;;
  *) fail "unknown extra '$extra'; use demo or dev" ;;
esac

fingerprint="$(cksum < pyproject.toml)"
ready() { [ -f "$1" ] && [ "$(cat "$1")" = "$fingerprint" ]; }
if ready "$venv/.sattxt-$extra" || ready "$venv/.sattxt-dev"; then exit 0; fi

usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' > /dev/null 2>&1; }

find_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    usable "$PYTHON" || fail "PYTHON=$PYTHON is not a Python of version 3.10 or newer"
    echo "$PYTHON"
    return
  fi
  for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
    if usable "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  fail "no Python 3.10 or newer was found; install one (https://www.python.org/downloads/) or pass PYTHON=/path/to/python"
}

if ! [ -x "$venv/bin/python" ]; then
  python="$(find_python)"
  "$python" -c 'import venv, ensurepip' > /dev/null 2>&1 \
    || fail "$python has no 'venv' module; install it (Debian and Ubuntu: apt install python3-venv), or pass PYTHON="
  say "creating $venv with $("$python" --version 2>&1)"
  # A half-made environment must not look like a whole one.
  "$python" -m venv "$venv" || { rm -rf "$venv"; fail "$python could not create $venv"; }
fi
usable "$venv/bin/python" || fail "$venv holds a Python older than 3.10; remove it and try again"

install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }

has_torch() { "$venv/bin/python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)'; }

# On Linux the package index's own build of torch brings gigabytes of CUDA; a machine without a GPU wants the CPU build.
if ! has_torch; then
  if [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi > /dev/null 2>&1; then
    say "installing torch for CPU (about 200 MB, once)"
    install --retries 0 --timeout 15 torch --index-url https://download.pytorch.org/whl/cpu 2> /dev/null \
      || install "torch==2.13.0" \
      || install "torch>=2.5"
  else
    say "installing torch (once)"
    install "torch>=2.5"
  fi
fi

say "installing sattxt[$extra] (once)"
install --editable ".[$extra]"
printf '%s' "$fingerprint" > "$venv/.sattxt-$extra"
say "done"
