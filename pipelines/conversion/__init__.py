"""Raw archives -> units of work -> a finished store folder; `pipelines.conversion.convert` puts them together."""
