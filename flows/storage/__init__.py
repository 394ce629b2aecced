"""What lies on the disk: stores, runs, results, features, exports and benchmarks; and what nothing needs any more."""
