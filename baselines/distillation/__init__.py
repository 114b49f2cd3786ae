"""Small networks that imitate large ones."""
