"""Work over many videos that survives kills: every video exactly once, results in parts."""
