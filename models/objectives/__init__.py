"""Self-supervised objectives, one file each: views in, named weighted loss terms out."""
