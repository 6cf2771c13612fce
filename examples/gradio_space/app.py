"""A Gradio Space: upload a video or record one, and see its classes and segments.

Put this file, requirements.txt and best.safetensors into a Space of the SDK gradio.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr

import p3d

WEIGHTS = Path(__file__).parent / "best.safetensors"
predictor = p3d.Predictor(WEIGHTS)


def classify(video: str) -> tuple[dict[str, float], list[list[object]]]:
    """Return the probabilities of the classes, and rows of segments."""
    try:
        prediction, timeline = predictor(video), predictor.timeline(video)
    except p3d.BadVideoError as error:
        raise gr.Error(error.reason) from error
    rows = [[s.label, round(s.start, 2), round(s.end, 2), s.score] for s in timeline.segments]
    return dict(prediction.top(5)), rows


outputs = [gr.Label(label="Classes"), gr.Dataframe(headers=["class", "start", "end", "score"])]
demo = gr.Interface(classify, gr.Video(sources=["upload", "webcam"]), outputs, title="p3d")

if __name__ == "__main__":
    demo.launch()
