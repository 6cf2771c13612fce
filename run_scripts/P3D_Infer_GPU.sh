#!/usr/bin/env bash
# Run P3D_Infer.sh on a GPU.
set -euo pipefail
DEVICE=${DEVICE:-cuda} exec "$(dirname -- "${BASH_SOURCE[0]}")/P3D_Infer.sh" "$@"
