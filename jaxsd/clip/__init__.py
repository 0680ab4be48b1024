"""CLIP: the towers and what turns text and images into their inputs."""
