#!/usr/bin/env bash
# Fine-tune P3D-199 on UCF101 in mixed precision (fp16) on eight GPUs: 60 epochs.
# Needs PYTORCH_TRAIN_DATASET and PYTORCH_TRAIN_CHECKPOINT (env.sh). Whatever is set below can be set
# by the caller, and flags of `p3d train` may follow:
#     NPROC=2 BATCH_SIZE=8 run_scripts/P3D_AMP_60E_8GPUs_Train.sh --seed 7
set -euo pipefail
# shellcheck source=run_scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

DEVICE=${DEVICE:-cuda}
NPROC=${NPROC:-8} # processes, one a device
PRECISION=${PRECISION:-fp16}
EPOCHS=${EPOCHS:-60}
BATCH_SIZE=${BATCH_SIZE:-16} # clips a device

train P3D_AMP_60E_8GPUs "$@"
