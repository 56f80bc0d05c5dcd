"""Devices and processes: launch modes, collectives, the guard against steps that are not finite."""
