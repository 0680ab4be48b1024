"""Training an audio encoder."""
