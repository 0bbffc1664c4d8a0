"""`captioner doctor`: checks everything the product needs, and repairs what it can."""
