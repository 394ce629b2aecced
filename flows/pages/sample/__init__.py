"""The page of a sample: its frames, its views, and what each operation drew."""
