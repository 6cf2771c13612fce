#!/usr/bin/env bash
# Evaluate trained weights on the UCF101 test list (20 clips per video), or classify videos:
#     run_scripts/P3D_Infer.sh [fp32|fp16]                       # the test list
#     run_scripts/P3D_Infer.sh fp16 walk.avi run.avi             # these videos
# Requires PYTORCH_INFER_CHECKPOINT, and PYTORCH_TRAIN_DATASET for the test list (env.sh). Every variable
# set below can be overridden, and options of `p3d eval` or `p3d predict` can be appended.
set -euo pipefail
# shellcheck source=run_scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

DEVICE=${DEVICE:-mlu}
NPROC=${NPROC:-1} # processes that share the test list, one per device
PRECISION=${PRECISION:-fp32}
case ${1:-} in
    fp32 | fp16 | bf16 | tf32)
        PRECISION=$1
        shift
        ;;
esac

infer "$@"
