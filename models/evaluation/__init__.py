"""What a frozen encoder is worth: features, downstream tasks, and the records of their scores."""
