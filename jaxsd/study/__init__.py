"""The paper's study: every conditioning by every mode by every input, and a page to look through the images."""
