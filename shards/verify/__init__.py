"""Verification of a store and its shards against the manifest."""
