#!/usr/bin/env bash
# Fine-tune P3D-199 on UCF101 in fp32 on eight GPUs for 60 epochs.
# Requires PYTORCH_TRAIN_DATASET and PYTORCH_TRAIN_CHECKPOINT (env.sh). Every variable set below can be
# overridden, and options of `p3d train` can be appended:
#     NPROC=2 BATCH_SIZE=8 run_scripts/P3D_FP32_60E_8GPUs_Train.sh --seed 7
set -euo pipefail
# shellcheck source=run_scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

DEVICE=${DEVICE:-cuda}
NPROC=${NPROC:-8} # processes, one per device
PRECISION=${PRECISION:-fp32}
EPOCHS=${EPOCHS:-60}
BATCH_SIZE=${BATCH_SIZE:-16} # clips per device

train P3D_FP32_60E_8GPUs "$@"
