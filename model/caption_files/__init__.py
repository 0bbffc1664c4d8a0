"""Captions files: Flickr, COCO, Karpathy, CSV and JSON Lines."""
