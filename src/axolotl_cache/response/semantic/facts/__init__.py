"""What a text says that must not differ: numbers, dates, names, negation and the like."""
