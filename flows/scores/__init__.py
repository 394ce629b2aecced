"""Results side by side: of runs, of versions, beside published ones."""
