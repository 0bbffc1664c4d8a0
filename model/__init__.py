"""The captioner: encoder, decoder, beam search, training, bundles and model versions."""
