"""From picture files to the features that decoders read."""
