"""Files of captions: Flickr, COCO, CSV and JSON Lines."""
