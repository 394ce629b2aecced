"""What the data of a finished store is like, and where two stores differ."""
