"""Compiling a config for a TPU or GPU topology that is not there: does it fit, does it scale?"""
