"""Where other programs take this library in."""
