"""The loop that fits an objective: schedule, checkpoints and logs."""
