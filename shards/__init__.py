"""What a skeleton sample is, and how it rests on disk."""
