"""Build hook of hatchling: writes the commit that a wheel is built of into it, as jssl/COMMIT."""

import subprocess
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitHook(BuildHookInterface):
    """Adds jssl/COMMIT to a wheel; an editable install asks its checkout instead."""

    def initialize(self, version, build_data):
        kept = Path(self.root) / "jssl" / "COMMIT"  # an sdist brings it along
        if version == "editable" or kept.exists() or not (Path(self.root) / ".git").exists():
            return
        words = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        done = subprocess.run(words, cwd=self.root, capture_output=True, text=True)
        if done.returncode == 0:
            file = Path(tempfile.mkdtemp()) / "COMMIT"
            file.write_text(done.stdout.strip() + "\n")
            build_data["force_include"][str(file)] = "jssl/COMMIT"
