"""What notebooks show and check."""
