#!/usr/bin/env bash
# The whole of p3d in a few minutes on two cores: write a small set of videos, train a P3D-63 on it
# from scratch, measure it on the test list, and ask it about a few clips.
set -euo pipefail
P3D=${P3D:-p3d}                # the command
DEMO=${DEMO:-demo}             # where everything goes
VARIANT=${VARIANT:-ABC}        # ABC: the paper's network; 2d: the same without temporal convolutions
RUN=$DEMO/$VARIANT

# Eight motions in four pairs; each class is its partner played backwards, frame by frame.
"$P3D" prepare sample --out "$DEMO/sample"

# The same command again goes on where an interrupted run stopped.
"$P3D" train --recipe sample --data "$DEMO/sample" --variant "$VARIANT" --out "$RUN" --resume

"$P3D" eval --data "$DEMO/sample" --weights "$RUN/best.safetensors" --clips 1 --out "$RUN/test"

clips=("$DEMO"/sample/test/Move{Left,Right}/*_c01.avi)
"$P3D" predict --weights "$RUN/best.safetensors" --clips 1 --top 2 "${clips[0]}" "${clips[-1]}"

echo "videos:   $DEMO/sample"
echo "network:  $RUN/best.safetensors (p3d info $RUN/best.safetensors)"
echo "figures:  $RUN/test/metrics.json, per_class.csv, confusion.png; $RUN/log.jsonl"
