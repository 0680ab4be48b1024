"""Reading and writing other libraries' checkpoints: the hub, files of weights, names and layouts."""
