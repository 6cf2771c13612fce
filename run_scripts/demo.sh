#!/usr/bin/env bash
# The whole workflow in a few minutes on two cores: write a small video set, train P3D-63 on it from
# scratch, evaluate on its test list, and classify two clips.
set -euo pipefail
P3D=${P3D:-p3d}                # the command
DEMO=${DEMO:-demo}             # output folder
VARIANT=${VARIANT:-ABC}        # ABC: the paper's network; 2d: the same without temporal convolutions
RUN=$DEMO/$VARIANT

# Eight motions in four pairs; each class is its partner played backwards, frame by frame.
"$P3D" prepare sample --out "$DEMO/sample"

# With --resume, the same command continues an interrupted run.
"$P3D" train --recipe sample --data "$DEMO/sample" --variant "$VARIANT" --out "$RUN" --resume

"$P3D" eval --data "$DEMO/sample" --weights "$RUN/best.safetensors" --clips 1 --out "$RUN/test"

clips=("$DEMO"/sample/test/Move{Left,Right}/*_c01.avi)
"$P3D" predict --weights "$RUN/best.safetensors" --clips 1 --top 2 "${clips[0]}" "${clips[-1]}"

echo "videos:   $DEMO/sample"
echo "network:  $RUN/best.safetensors (p3d info $RUN/best.safetensors)"
echo "results:  $RUN/test/metrics.json, per_class.csv, confusion.png; $RUN/log.jsonl"
