"""The objects of a bucket, by the clients of fsspec: gcsfs for gs://, s3fs for s3://.

A client writes an object whole or not at all. `Store.write` does so on a condition that the store
itself checks, which is what a lock needs.
"""

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jssl import files
from jssl.errors import UserError, WriteError
from jssl.third_party import unchanged

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}


class StoreError(WriteError, OSError):
    """A bucket cannot be reached, read or written."""


def is_url(workdir: str | Path) -> bool:
    """Whether a workdir is in an object store.

    Example:
        >>> is_url('s3://bucket/run'), is_url('runs/simclr')
        (True, False)
    """
    return str(workdir).startswith(tuple(f"{scheme}://" for scheme in PACKAGES))


class Store:
    """The objects below a URL, by their names relative to it.

    Args:
        url: `gs://BUCKET/RUN` or `s3://BUCKET/RUN`.

    Raises:
        UserError: no such URL, or a package that is not installed.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        self.scheme, _, place = self.url.partition("://")
        self.bucket, _, self._prefix = place.partition("/")
        if not self.bucket or not self._prefix:
            raise UserError(
                f"Found --workdir={url}: expected a bucket and a name in it. Type "
                f"--workdir={self.scheme}://{self.bucket or 'BUCKET'}/NAME."
            )
        if not _BUCKET.fullmatch(self.bucket):
            raise UserError(
                f"Found --workdir={url}: '{self.bucket}' is no name of a bucket. Expected 3 to 222 "
                "lower-case letters, digits, '-', '_' and '.', a letter or digit first and last. "
                f"Type --workdir={self.scheme}://BUCKET/{self._prefix}."
            )
        self.fs = filesystem(self.scheme)

    def path(self, name: str) -> str:
        """Returns the path of an object as fsspec takes it."""
        return f"{self.bucket}/{self._prefix}/{name}"

    def find(self) -> dict[str, str]:
        """Returns name -> version of all objects; the version changes when one is replaced."""
        root = self.path("")
        with self._errors("listed"):
            found = self.fs.find(root.rstrip("/"), detail=True)
        return {
            path.removeprefix(root): str(about.get("generation") or about.get("ETag"))
            for path, about in found.items()
            if path.startswith(root) and path != root
        }

    def get(self, name: str, place: Path) -> None:
        """Copies an object to a file, which appears when it is whole."""
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f".{os.getpid()}-{threading.get_ident()}.part")
        with self._errors("read"):
            self.fs.get_file(self.path(name), str(part))
        files.move(part, place)

    def put(self, place: Path, name: str) -> None:
        """Copies a file to an object, which the store replaces when it is whole."""
        with self._errors("written"):
            self.fs.put_file(str(place), self.path(name))

    def remove(self, name: str) -> None:
        """Removes an object; one that does not exist is no error."""
        with self._errors("written"), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))

    def read(self, name: str) -> tuple[bytes, str] | None:
        """Returns the content and the version of a small object; None if there is none."""
        with self._errors("read"):
            try:
                # The version first: with one of an older content `write` fails, as it should.
                if self.scheme == "s3":
                    key = {"Bucket": self.bucket, "Key": self._key(name)}
                    version = self.fs.call_s3("head_object", **key)["ETag"]
                else:
                    place = "b/{}/o/{}", self.bucket, self._key(name)
                    version = self.fs.call("GET", *place, json_out=True)["generation"]
                return self.fs.cat_file(self.path(name)), version
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes, version: str | None) -> bool:
        """Writes a small object on a condition, which the store checks in the same step.

        Args:
            name: of the object.
            content: its bytes.
            version: the one that is replaced, of `read`; None: there is none yet.

        Returns:
            Whether it was written: whether the condition was met.

        Raises:
            StoreError: the bucket cannot be written.
        """
        with self._errors("written"):
            try:
                if self.scheme == "s3":
                    met = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
                    self.fs.call_s3(
                        "put_object", Bucket=self.bucket, Key=self._key(name), Body=content, **met
                    )
                else:
                    self.fs.call(
                        "POST", f"{self.fs._location}/upload/storage/v1/b/{self.bucket}/o",
                        uploadType="media", name=self._key(name), data=content,
                        ifGenerationMatch=version or "0", json_out=True,
                    )  # fmt: skip
            except Exception as error:
                if _unmet(error, version):
                    return False
                raise
        return True

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Converts what the clients raise; FileNotFoundError of a file of the mirror passes."""
        try:
            yield
        except Exception as error:
            if isinstance(error, FileNotFoundError) and what != "listed" and not _no_bucket(error):
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise StoreError(
                f"{self.url} cannot be {what} ({reason}). Check the name of the bucket and that "
                f"you may use it: {_CHECK[self.scheme]}. Then type the same command again."
            ) from error


_CHECK = {
    "gs": "type gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS",
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_DEFAULT_REGION",
}


def _no_bucket(error: BaseException) -> bool:
    return "bucket does not exist" in f"{error}"


def _unmet(error: BaseException, version: str | None) -> bool:
    """Whether an error says that a precondition was not met: status 412, or 409 of S3."""
    code: Any = getattr(error, "code", None)
    if response := getattr(error.__cause__, "response", None):
        code = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    gone = version is not None and isinstance(error, FileNotFoundError) and not _no_bucket(error)
    return gone or isinstance(error, FileExistsError) or str(code) in ("409", "412")


def filesystem(scheme: str) -> Any:
    """Returns the client of fsspec, as epath and Orbax use it too.

    Raises:
        UserError: a package that is not installed.
    """
    # With TensorFlow installed epath would take its client, which knows no emulator or credentials
    # of the others.
    os.environ.setdefault("EPATH_USE_TF", "false")
    try:
        with unchanged():
            import fsspec
            import fsspec.config

            # Orbax's arrays and other machines write past these clients: a list that a client
            # remembers would lack them.
            for name in ("gs", "gcs", "s3", "s3a"):
                fsspec.config.conf.setdefault(name, {})["use_listings_cache"] = False
            return fsspec.filesystem(scheme)
    except ImportError as error:
        raise UserError(
            f"A workdir in {scheme}:// needs the package {PACKAGES[scheme]} ({error}). Type: pip "
            "install 'jssl[stores]'."
        ) from None
