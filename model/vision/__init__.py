"""Image files, encoders and their features."""
