"""Copies of remote shards on a local disk."""
