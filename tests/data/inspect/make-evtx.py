#!/usr/bin/python3
"""Makes windows/System.evtx.zst, an event log of two chunks in the form of [MS-EVEN6] (Binary XML with templates), and prints what
python-evtx reads in it, as a check by a reader that shares nothing with this project (pip install python-evtx lxml; needs zstd too).

The log is that of no real machine: boots and shutdowns, with other events between them.
"""
import os
import struct
import subprocess
import sys
import tempfile
import zlib

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "windows")
CHUNK, EVENTS = 0x10000, 512


def filetime(seconds):
    return (seconds + 11644473600) * 10_000_000


def name_hash(name):
    value = 0
    for letter in name:
        value = (value * 65599 + ord(letter)) & 0xFFFFFFFF
    return value & 0xFFFF


class Chunk:
    """A chunk that is being filled. Names and templates lie where they are first used, and are referred to after that."""

    def __init__(self):
        self.data = bytearray(EVENTS)
        self.names, self.templates, self.ids = {}, {}, []

    def name(self, out, at, name):
        """Writes a reference to a name, and the name behind it where it is new."""
        known = self.names.get(name)
        out += struct.pack("<I", known if known is not None else at + len(out) + 4)
        if known is None:
            self.names[name] = at + len(out)
            out += struct.pack("<IHH", 0, name_hash(name), len(name)) + name.encode("utf-16-le") + b"\0\0"

    def element(self, at, name, attributes=(), content=b"", inside=None):
        """Returns an element; `content` is made after its attributes, so that places come out right."""
        out = bytearray(struct.pack("<BHI", 0x41 if attributes else 0x01, 0xFFFF, 0))
        self.name(out, at, name)
        if attributes:
            list_at = len(out)
            out += struct.pack("<I", 0)
            for number, (key, value) in enumerate(attributes):
                out += struct.pack("<B", 0x06 if number + 1 == len(attributes) else 0x46)
                self.name(out, at, key)
                out += value
            struct.pack_into("<I", out, list_at, len(out) - list_at - 4)
        if content or inside:
            out += b"\x02"
            out += content
            for make in inside or ():
                out += make(at + len(out))
            out += b"\x04"
        else:
            out += b"\x03"
        struct.pack_into("<I", out, 3, len(out) - 7)
        return bytes(out)

    def template(self, at, provider, guid):
        """Returns the body of a template as the providers of Windows have it."""
        sub = lambda number, kind, optional=True: struct.pack("<BHB", 0x0E if optional else 0x0D, number, kind)
        text = lambda value: struct.pack("<BBH", 0x05, 0x01, len(value)) + value.encode("utf-16-le")
        one = lambda name, *rest: lambda at: self.element(at, name, *rest)
        who = [("Name", text(provider))] + ([("Guid", text(guid))] if guid else [])
        event_id = one("EventID", [("Qualifiers", sub(4, 0x06))] if not guid else (), sub(3, 0x06))
        system = [
            one("Provider", who), event_id, one("Version", (), sub(11, 0x04)), one("Level", (), sub(0, 0x04)),
            one("Task", (), sub(2, 0x06)), one("Opcode", (), sub(1, 0x04)), one("Keywords", (), sub(5, 0x15)),
            one("TimeCreated", [("SystemTime", sub(6, 0x11))]), one("EventRecordID", (), sub(10, 0x0A)),
            one("Channel", (), text("System")), one("Computer", (), text("desktop-1")),
        ]
        body = b"\x0f\x01\x01\x00"
        xmlns = ("xmlns", text("http://schemas.microsoft.com/win/2004/08/events/event"))
        inside = [lambda at: self.element(at, "System", (), b"", system)]
        return body + self.element(at + len(body), "Event", [xmlns], b"", inside) + b"\0"

    def add(self, number, seconds, provider, guid, event):
        at = len(self.data)
        out = bytearray(struct.pack("<IIQQ", 0x2A2A, 0, number, filetime(seconds)) + b"\x0f\x01\x01\x00")
        key = (provider, guid)
        known = self.templates.get(key)
        place = at + len(out) + 10
        out += struct.pack("<BBII", 0x0C, 1, zlib.crc32(repr(key).encode()), known if known is not None else place)
        if known is None:
            self.templates[key] = place
            body = self.template(place + 24, provider, guid)
            out += struct.pack("<I", 0) + zlib.crc32(repr(key).encode()).to_bytes(4, "little") * 4 + struct.pack("<I", len(body)) + body
        values = [
            (0x04, b"\4"), (0x04, b"\0"), (0x06, struct.pack("<H", 1)), (0x06, struct.pack("<H", event)), (0x06, struct.pack("<H", 0x8000)),
            (0x15, struct.pack("<Q", 0x8000000000000000)), (0x11, struct.pack("<Q", filetime(seconds))), (0x00, b""), (0x00, b""), (0x00, b""),
            (0x0A, struct.pack("<Q", number)), (0x04, b"\0"),
        ]
        out += struct.pack("<I", len(values)) + b"".join(struct.pack("<HBB", len(value), kind, 0) for kind, value in values)
        out += b"".join(value for _, value in values) + b"\0"
        out += b"\0" * (-(len(out) + 4) % 8)
        struct.pack_into("<I", out, 4, len(out) + 4)
        self.last = at
        self.data += out + struct.pack("<I", len(out) + 4)
        self.ids.append(number)

    def finish(self):
        free = len(self.data)
        data = self.data.ljust(CHUNK, b"\0")
        head = struct.pack("<8sQQQQIIII", b"ElfChnk\0", self.ids[0], self.ids[-1], self.ids[0], self.ids[-1], 128, self.last, free, zlib.crc32(data[EVENTS:free]))
        data[: len(head)] = head
        struct.pack_into("<I", data, 124, zlib.crc32(data[:120] + data[128:EVENTS]))
        return bytes(data)


KERNEL = ("Microsoft-Windows-Kernel-General", "{a68ca8b7-004f-d7b6-a698-07e2de0f1f5d}")
LOG = ("EventLog", None)
OTHER = ("Service Control Manager", "{555908d1-a6d7-4695-8e1e-26931d2012f4}")


def main():
    number, chunks = 0, []
    # Two boots; of the second the log's own start comes after the kernel's.
    for start, ids in ((1_699_990_000, range(40)), (1_700_000_000, range(25))):
        chunk = Chunk()
        for step in ids:
            who, event = (KERNEL, 12) if step == 1 else (LOG, 6005) if step == 3 else (KERNEL, 13) if step == 38 else (OTHER, 7036)
            # Providers of other things have events of the same number.
            who, event = (OTHER, 12) if step == 20 else (who, event)
            number += 1
            chunk.add(number, start + step * 10, *who, event)
        chunks.append(chunk.finish())
    # A log that is full begins again in front: the newest chunk is the first.
    head = bytearray(struct.pack("<8sQQQIHHHH", b"ElfFile\0", 1, 0, number + 1, 128, 1, 3, 4096, len(chunks)).ljust(4096, b"\0"))
    struct.pack_into("<I", head, 124, zlib.crc32(head[:120]))
    path = os.path.join(tempfile.mkdtemp(), "System.evtx")
    with open(path, "wb") as file:
        file.write(head + b"".join(reversed(chunks)))
    subprocess.run(["zstd", "-19", "-q", "-f", path, "-o", os.path.join(HERE, "System.evtx.zst")], check=True)
    try:
        import Evtx.Evtx
    except ImportError:
        sys.exit("python-evtx is not installed: what was made is not checked")
    with Evtx.Evtx.Evtx(path) as log:
        for chunk in log.chunks():
            assert chunk.verify(), "a checksum is wrong"
            for record in chunk.records():
                root = record.lxml()
                space = {"e": "http://schemas.microsoft.com/win/2004/08/events/event"}
                find = lambda what: root.xpath(what, namespaces=space)[0]
                print(record.timestamp(), find("//e:Provider/@Name"), find("//e:EventID/text()"), find("//e:EventRecordID/text()"))


main()
