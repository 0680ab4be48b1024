"""A page to play with and its API: a service that holds the models and a queue, and a thin Gradio page over it."""
