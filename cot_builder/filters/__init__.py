"""What a reply must be to become a row."""
