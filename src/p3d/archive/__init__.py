"""Work through many videos, each once, with results in parts that survive any interruption."""
