"""What is true of Chinese and English wherever text is read: numerals, months."""
