"""Pages: of a sample and its views, of the quality of a store, of runs; each one HTML file."""
