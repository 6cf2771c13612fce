#!/usr/bin/env bash
# P3D_Infer.sh on the GPU.
set -euo pipefail
DEVICE=${DEVICE:-cuda} exec "$(dirname -- "${BASH_SOURCE[0]}")/P3D_Infer.sh" "$@"
