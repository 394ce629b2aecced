"""Everything that moves or changes samples: raw archives in, views on the device out."""
