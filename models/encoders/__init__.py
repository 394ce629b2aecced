"""Encoders: networks from a view (N, T, V*C*M) to a feature of each sample and, where they have them, of each frame."""
