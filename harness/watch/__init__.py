"""Reading what a training leaves behind while it runs: records, logs, activity. Nothing here writes to it."""
