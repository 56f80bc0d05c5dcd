"""The protocols of `jssl evaluate`, one file each."""
