#!/usr/bin/env bash
# Measure trained weights on UCF101's test list (20 clips a video), or name the classes of videos:
#     run_scripts/P3D_Infer.sh [fp32|fp16]                       # the test list
#     run_scripts/P3D_Infer.sh fp16 walk.avi run.avi             # these videos
# Needs PYTORCH_INFER_CHECKPOINT, and PYTORCH_TRAIN_DATASET for the test list (env.sh). Whatever is
# set below can be set by the caller; flags of `p3d eval` or `p3d predict` may follow.
set -euo pipefail
# shellcheck source=run_scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

DEVICE=${DEVICE:-mlu}
NPROC=${NPROC:-1} # processes that share the test list, one a device
PRECISION=${PRECISION:-fp32}
case ${1:-} in
    fp32 | fp16 | bf16 | tf32)
        PRECISION=$1
        shift
        ;;
esac

infer "$@"
