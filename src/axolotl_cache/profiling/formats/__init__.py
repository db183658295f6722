"""What logs look like: a reader for each kind, chosen by what is in the file and never by its name."""
