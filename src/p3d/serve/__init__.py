"""Answer requests for predictions over HTTP."""
