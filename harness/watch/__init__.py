"""What moves in a run: heartbeats, logs and activity become Progress; `detect` judges it."""
