"""Inference: logits and probabilities of clips and videos."""
