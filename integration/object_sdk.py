"""openstacksdk's object store against an endpoint, which the OS_ variables name: ends with 0 when all is as it should be."""

import os
import tempfile

import openstack

# More than one segment of this many bytes each.
SEGMENT_BYTES = 1 << 20
LARGE_BYTES = 3 * SEGMENT_BYTES + 17


def large_object(cloud, folder):
    """A file of several segments goes up as a static large object and comes back."""
    path, back = os.path.join(folder, "large"), os.path.join(folder, "back")
    content = os.urandom(LARGE_BYTES)
    with open(path, "wb") as file:
        file.write(content)
    cloud.create_object("sdk", "large", filename=path, segment_size=SEGMENT_BYTES, use_slo=True)
    found = cloud.object_store.get_object_metadata("large", container="sdk")
    assert found.is_static_large_object and found.content_length == LARGE_BYTES, found
    cloud.get_object("sdk", "large", outfile=back)
    with open(back, "rb") as file:
        assert file.read() == content
    assert cloud.is_object_stale("sdk", "large", path) is False
    assert cloud.delete_object("sdk", "large")


def main():
    cloud = openstack.connect()
    store = cloud.object_store
    container = store.create_container(name="sdk")
    store.set_container_metadata(container, color="brown")
    assert store.get_container_metadata("sdk").metadata["color"] == "brown"
    assert [found.name for found in store.containers()] == ["sdk"]
    store.upload_object(container="sdk", name="옹기/small", data=b"jar")
    store.set_object_metadata("옹기/small", container="sdk", size="small")
    found = store.get_object_metadata("옹기/small", container="sdk")
    assert (found.content_length, found.metadata["size"]) == (3, "small"), found
    assert store.download_object("옹기/small", container="sdk") == b"jar"
    assert [found.name for found in store.objects("sdk", prefix="옹기/")] == ["옹기/small"]
    assert store.get_info().slo["max_manifest_segments"] > 0
    with tempfile.TemporaryDirectory() as folder:
        large_object(cloud, folder)
    store.delete_object("옹기/small", container="sdk")
    assert list(store.objects("sdk")) == []
    store.delete_container("sdk")
    for name in [found.name for found in store.containers()]:
        for left in list(store.objects(name)):
            store.delete_object(left.name, container=name)
        store.delete_container(name)
    assert list(store.containers()) == []


main()
