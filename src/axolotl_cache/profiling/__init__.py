"""What a log of requests says: what repeats, what a cache would do, and why it misses. No model, no torch."""
