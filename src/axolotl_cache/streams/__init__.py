"""What is computed once and read by all who asked for it at the same time: by threads, and by tasks."""
