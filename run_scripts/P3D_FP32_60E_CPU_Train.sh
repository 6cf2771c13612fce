#!/usr/bin/env bash
# Fine-tune P3D-199 on UCF101 in fp32 on the CPU: to try things out, with EPOCHS=1 and few videos.
# Needs PYTORCH_TRAIN_DATASET and PYTORCH_TRAIN_CHECKPOINT (env.sh). Whatever is set below can be set
# by the caller, and flags of `p3d train` may follow:
#     NPROC=2 BATCH_SIZE=8 run_scripts/P3D_FP32_60E_CPU_Train.sh --seed 7
set -euo pipefail
# shellcheck source=run_scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

DEVICE=${DEVICE:-cpu}
NPROC=${NPROC:-1} # processes, one a device
PRECISION=${PRECISION:-fp32}
EPOCHS=${EPOCHS:-60}
BATCH_SIZE=${BATCH_SIZE:-16} # clips a device

train P3D_FP32_60E_CPU "$@"
