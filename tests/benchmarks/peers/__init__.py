"""Other programs that the product is measured beside."""
