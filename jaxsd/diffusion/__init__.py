"""Stable Diffusion 1.x: U-Net, VAE, samplers and the pipeline."""
