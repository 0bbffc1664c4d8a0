"""`make faults ROUNDS=200 SEED=1`: break the running product again and again while people annotate, and check it."""
