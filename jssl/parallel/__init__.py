"""Launch modes, collectives, and the guard against non-finite steps."""
