"""The memory beside the decoder: corrected captions of look-alike images suggest captions before any training."""
