"""One retraining: data, training, decision and publication."""
