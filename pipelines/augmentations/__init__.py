"""Augmentations: parameters are drawn (`draws`), batched, from keys; and applied, pure, on the batch's device."""
