"""A benchmark: a matrix of methods, data sets, streams and seeds with their tasks, planned, run, and gone on with."""
