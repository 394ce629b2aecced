"""What a conversion will take and give, without doing it; `pipelines.planning.forecast` puts it together."""
