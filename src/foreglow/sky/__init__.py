"""What the sky emits."""
