"""The JSON that Label Studio sends and expects."""
