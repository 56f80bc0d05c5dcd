"""Emulators of object stores, for tests: `python store_server.py s3|gs PORT HOLD`.

While the file HOLD exists, a write of an object whose name ends with its text is not answered:
`HOLD.met` is created, and when HOLD is gone the write fails.

The emulator of GCS takes no notice of conditions; here it does, as
https://cloud.google.com/storage/docs/request-preconditions says: status 412 where the generation is
another than `ifGenerationMatch`, 0 for an object that does not exist. It also tells the generation
of what is read, without which TensorStore cannot replace it.
"""

import http.server
import logging
import sys
import threading
import time
from http import HTTPStatus
from pathlib import Path


def held(name, hold):
    """Waits while a name is to be held; returns whether it was."""
    if not hold.exists() or not name.endswith(hold.read_text() or "\0"):
        return False
    Path(f"{hold}.met").touch()
    while hold.exists():
        time.sleep(0.01)
    return True


def s3(port, hold):
    """Serves moto's S3."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    app = DomainDispatcherApplication(create_backend_app)

    def holding(environ, start_response):
        if environ["REQUEST_METHOD"] == "PUT" and held(environ["PATH_INFO"], hold):
            start_response("400 Bad Request", [("Content-Length", "0")])
            return [b""]
        return app(environ, start_response)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    run_simple("127.0.0.1", port, holding, threaded=True)


def gs(port, hold):
    """Serves gcp-storage-emulator, with conditions."""
    from gcp_storage_emulator.handlers import objects

    write, read, one_by_one = objects.insert, objects.download, threading.Lock()

    def generation(request, storage, name):
        try:
            return str(storage.get_file_obj(request.params["bucket_name"], name)["generation"])
        except Exception:
            return "0"

    def download(request, response, storage, *args, **kwargs):
        found = generation(request, storage, request.params["object_id"])
        if request.query.get("ifGenerationNotMatch", [""])[0] == found:
            response.status = HTTPStatus.NOT_MODIFIED if found != "0" else HTTPStatus.NOT_FOUND
            return None
        if found != "0":
            response["x-goog-generation"] = found
        return read(request, response, storage, *args, **kwargs)

    def insert(request, response, storage, *args, **kwargs):
        query = request.query
        if "name" in query:
            name = query["name"][0]
        elif "upload_id" in query:  # a part of an upload
            return write(request, response, storage, *args, **kwargs)
        else:
            name = request.data.get("meta", request.data)["name"]
        if held(name, hold):
            response.status = HTTPStatus.BAD_REQUEST
            return None
        _ = request.data  # a body that is not read would break the connection
        with one_by_one:
            found = generation(request, storage, name)
            if query.get("ifGenerationMatch", [found])[0] != found:
                response.status = HTTPStatus.PRECONDITION_FAILED
                return None
            return write(request, response, storage, *args, **kwargs)

    # Before its server lists the handlers.
    objects.insert, objects.download = insert, download
    http.server.HTTPServer = http.server.ThreadingHTTPServer  # one held write holds no other
    from gcp_storage_emulator.server import create_server

    create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket").run()


if __name__ == "__main__":
    {"s3": s3, "gs": gs}[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]))
