"""Captions images: encoder, attention LSTM decoder, beam search, training, bundles, versions."""
