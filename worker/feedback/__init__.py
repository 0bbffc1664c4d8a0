"""What annotators made of our captions."""
