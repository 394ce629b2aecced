"""What a conversion will take and give, without doing it; `pipelines.plan` puts it together."""
