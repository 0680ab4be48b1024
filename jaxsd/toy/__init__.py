"""A small synthetic world of ten sounding things, each with pictures, captions and sounds."""
