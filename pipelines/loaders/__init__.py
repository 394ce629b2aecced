"""Loaders: one interface, `loader.ViewLoader`, over three engines: resident, stream and dali."""
