"""Recipe and model card of the built-in bundle `photos`."""
