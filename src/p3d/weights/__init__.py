"""Weight files: reading, identifying, converting, saving and describing them."""
