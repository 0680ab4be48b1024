"""What every command stands on: its command line, files, progress bar, devices, and what ships with the package."""
