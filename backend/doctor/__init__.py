"""`captioner doctor`: everything the product needs, looked at and mended."""
