"""CLIP: the towers and what turns text and pictures into their inputs."""
