"""The downstream tasks: each joins the views of a benchmark with a protocol of `models.evaluation`."""
