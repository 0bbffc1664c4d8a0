"""Jobs, the queues they wait in, and the workers that run them."""
