#!/usr/bin/env bash
# What `make demo` runs. QUERY, IMAGES (paths or globs, split at spaces) and OUT come from the environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

arguments=()
if [ -n "${QUERY:-}" ]; then arguments+=("$QUERY"); fi
if [ -n "${IMAGES:-}" ]; then
  read -r -a images <<< "$IMAGES"
  for image in "${images[@]}"; do arguments+=(--images "$image"); done
fi
if [ -n "${OUT:-}" ]; then arguments+=(--out "$OUT"); fi

exec "${VENV:-.venv}/bin/sattxt" demo ${arguments[@]+"${arguments[@]}"}
