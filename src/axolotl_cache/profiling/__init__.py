"""What a log says about caching: what repeats, and what caches of other sizes and policies would find."""
