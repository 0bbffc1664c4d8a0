"""Training of decoders and encoders."""
