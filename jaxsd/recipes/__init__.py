"""How an image was made, in its file, and the way back to the flags that make it again."""
