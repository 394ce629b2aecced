"""From a parsed sequence to the frames that are stored: body choice, normalisation, and the recipes that name them."""
