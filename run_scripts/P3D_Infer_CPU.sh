#!/usr/bin/env bash
# Run P3D_Infer.sh on the CPU.
set -euo pipefail
DEVICE=${DEVICE:-cpu} exec "$(dirname -- "${BASH_SOURCE[0]}")/P3D_Infer.sh" "$@"
