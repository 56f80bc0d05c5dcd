"""One run: its workdir, its checkpoints, its training loop, its stages and its results."""
