"""Raw archives -> units of work -> a finished store folder; `pipelines.convert` puts them together."""
