"""How encoders and decoders learn."""
