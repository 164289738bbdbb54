"""An emulated bucket in a process of its own: `python bucket_server.py PORT [N]`.

`gcp-storage-emulator`, with what clients of the real service rely on: the generation of what is
downloaded in its header, uploads on condition of a generation, and moves told to be impossible at
once. With N, every N-th request is answered by 503, as the real service does now and then.
"""

import itertools
import sys
from http import HTTPStatus

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

BUCKET = "bucket"
requests = itertools.count(1)


def generation(storage, bucket, name):
    """Of an object that is there; "0" for none."""
    try:
        return str(storage.get_file_obj(bucket, name)["generation"])
    except NotFound:
        return "0"


def with_generation(download):
    def run(request, response, storage, *args, **kwargs):
        names = request.params["bucket_name"], request.params["object_id"]
        response["x-goog-generation"] = generation(storage, *names)
        download(request, response, storage, *args, **kwargs)

    return run


def on_condition(upload):
    def run(request, response, storage):
        names = request.params["bucket_name"], request.query["name"][0]
        wanted = request.query.get("ifGenerationMatch")
        if wanted and wanted[0] != generation(storage, *names):
            response.status = HTTPStatus.PRECONDITION_FAILED
            response.json({"error": {"code": 412}})
            return
        upload(request, response, storage)

    return run


def now_and_then_unavailable(handle, every):
    def run(self, method):
        if next(requests) % every:
            handle(self, method)
            return
        server.Request(self._request_handler, method).data  # noqa: B018  # it must be read
        response = server.Response(self._request_handler)
        response.status = HTTPStatus.SERVICE_UNAVAILABLE
        response.json({"error": {"code": 503, "message": "try again"}})
        response.close()

    return run


if __name__ == "__main__":
    objects.download = with_generation(objects.download)
    objects._media_upload = on_condition(objects._media_upload)
    if len(sys.argv) > 2:
        server.Router.handle = now_and_then_unavailable(server.Router.handle, int(sys.argv[2]))
    server.create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket=BUCKET).run()
