"""Compiles a config for a TPU or GPU topology without the hardware: memory, FLOPs, traffic."""
