#!/usr/bin/python3
"""Makes the registry hives in the folder windows/ with hivex (Debian: python3-hivex).

An empty hive is written by hand; everything else is hivex's work. The hives are those of no real machine.
"""
import os
import struct
import hivex

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "windows")
SZ, EXPAND, BINARY, DWORD, MULTI, QWORD = 1, 2, 3, 4, 7, 11


def empty(path):
    """Writes a hive that has a root key and nothing else."""
    name = b"ROOT"
    nk = struct.pack("<2sHQIIIIIIIIIIIIIIIHH", b"nk", 0x2C, 0x01D9000000000000, 0, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF,
                     0, 0xFFFFFFFF, 0x80 + 0x20, 0xFFFFFFFF, 0, 0, 0, 0, 0, len(name), 0) + name
    nk = struct.pack("<i", -0x80) + nk
    nk = nk.ljust(0x80, b"\0")
    descriptor = bytes.fromhex("0100048014000000240000000000000034000000") + bytes.fromhex("01020000000000052000000020020000") * 2
    sk_at = 0x20 + 0x80
    sk = struct.pack("<2sHIIII", b"sk", 0, sk_at, sk_at, 1, len(descriptor)) + descriptor
    size = (len(sk) + 4 + 7) // 8 * 8
    sk = (struct.pack("<i", -size) + sk).ljust(size, b"\0")
    body = struct.pack("<4sIIQQI", b"hbin", 0, 4096, 0, 0x01D9000000000000, 0) + nk + sk
    body += struct.pack("<i", 4096 - len(body))
    body = body.ljust(4096, b"\0")
    base = struct.pack("<4sIIQIIIIIII", b"regf", 1, 1, 0x01D9000000000000, 1, 5, 0, 1, 0x20, len(body), 1).ljust(508, b"\0")
    total = 0
    for (word,) in struct.iter_unpack("<I", base):
        total ^= word
    base = (base + struct.pack("<I", total)).ljust(4096, b"\0")
    with open(path, "wb") as file:
        file.write(base + body)


def encode(kind, value):
    if kind in (SZ, EXPAND):
        return (value + "\0").encode("utf-16-le")
    if kind == MULTI:
        return ("\0".join(value) + "\0\0").encode("utf-16-le")
    if kind == DWORD:
        return struct.pack("<I", value)
    if kind == QWORD:
        return struct.pack("<Q", value)
    return value


def make(name, keys):
    path = os.path.join(HERE, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    empty(path)
    hive = hivex.Hivex(path, write=True)
    for key, values in keys.items():
        node = hive.root()
        for part in key.split("\\"):
            node = hive.node_get_child(node, part) or hive.node_add_child(node, part)
        hive.node_set_values(node, [{"key": k, "t": t, "value": encode(t, v)} for k, (t, v) in values.items()])
    hive.commit(None)


def user(name, full):
    name, full = name.encode("utf-16-le"), full.encode("utf-16-le")
    head = bytearray(0xCC)
    struct.pack_into("<II", head, 0x0C, 0, len(name))
    struct.pack_into("<II", head, 0x18, len(name), len(full))
    return bytes(head) + name + full


def account(flags):
    value = bytearray(0x50)
    struct.pack_into("<H", value, 0x38, flags)
    return bytes(value)


CURRENT = "Microsoft\\Windows NT\\CurrentVersion"
UNINSTALL = "Microsoft\\Windows\\CurrentVersion\\Uninstall"
make("SOFTWARE", {
    "Microsoft\\Cryptography": {"MachineGuid": (SZ, "0f0e0d0c-1111-2222-3333-444455556666")},
    CURRENT: {
        "ProductName": (SZ, "Windows 10 Pro"), "InstallationType": (SZ, "Client"), "EditionID": (SZ, "Professional"),
        "CurrentVersion": (SZ, "6.3"), "CurrentMajorVersionNumber": (DWORD, 10), "CurrentMinorVersionNumber": (DWORD, 0),
        "CurrentBuildNumber": (SZ, "22631"), "CurrentBuild": (SZ, "22631"), "UBR": (DWORD, 2861),
        "DisplayVersion": (SZ, "23H2"), "InstallDate": (DWORD, 1700000000), "ProductId": (SZ, "00330-80000-00000-AA000"),
        "RegisteredOwner": (SZ, "Ann Example"), "SystemRoot": (SZ, "C:\\Windows"),
    },
    UNINSTALL + "\\{11111111-2222-3333-4444-555555555555}": {
        "DisplayName": (SZ, "Müller Büro"), "DisplayVersion": (SZ, "7.5.1"), "Publisher": (SZ, "Müller AG"),
        "InstallDate": (SZ, "20240229"), "EstimatedSize": (DWORD, 2048), "InstallLocation": (SZ, "C:\\Program Files\\Büro\\"),
        "URLInfoAbout": (SZ, "https://example.org"), "Comments": (SZ, "x" * 200),
    },
    UNINSTALL + "\\Hidden": {"SystemComponent": (DWORD, 1)},
    "Wow6432Node\\" + UNINSTALL + "\\OldTool": {"DisplayName": (SZ, "Old Tool"), "DisplayVersion": (SZ, "1.0")},
})
SET = "ControlSet002\\"
SERVICES = SET + "Services\\"
make("SYSTEM", {
    "Select": {"Current": (DWORD, 2), "Default": (DWORD, 2)},
    "ControlSet001\\Control\\ComputerName\\ComputerName": {"ComputerName": (SZ, "WRONG")},
    SET + "Control\\ComputerName\\ComputerName": {"ComputerName": (SZ, "DESKTOP-1")},
    SET + "Control\\TimeZoneInformation": {"TimeZoneKeyName": (SZ, "W. Europe Standard Time")},
    SET + "Control\\MUI\\UILanguages\\de-CH": {},
    SET + "Control\\Keyboard Layouts\\00000807": {"Layout Text": (SZ, "Swiss German")},
    SET + "Control\\Session Manager\\Environment": {"PROCESSOR_ARCHITECTURE": (SZ, "AMD64")},
    SET + "Control\\Windows": {"ShutdownTime": (BINARY, struct.pack("<Q", (1700001000 + 11644473600) * 10000000))},
    SERVICES + "Tcpip\\Parameters": {"Hostname": (SZ, "desktop-1"), "Domain": (SZ, "example.org")},
    SERVICES + "Tcpip\\Parameters\\Interfaces\\{aaaaaaaa-0000-0000-0000-000000000001}": {
        "EnableDHCP": (DWORD, 0), "IPAddress": (MULTI, ["192.0.2.20"]), "SubnetMask": (MULTI, ["255.255.255.0"]),
        "DefaultGateway": (MULTI, ["192.0.2.1"]), "NameServer": (SZ, "192.0.2.2,192.0.2.3"),
    },
    SERVICES + "Spooler": {"Type": (DWORD, 0x110), "Start": (DWORD, 2), "DisplayName": (SZ, "@%systemroot%\\x.dll,-1"),
                           "ImagePath": (EXPAND, "%SystemRoot%\\System32\\spoolsv.exe")},
    SERVICES + "OldDaemon": {"Type": (DWORD, 0x10), "Start": (DWORD, 2), "DisplayName": (SZ, "Old Daemon"), "DelayedAutostart": (DWORD, 1)},
    SERVICES + "Manual": {"Type": (DWORD, 0x20), "Start": (DWORD, 3)},
    SERVICES + "viostor": {"Type": (DWORD, 1), "Start": (DWORD, 0)},
    "MountedDevices": {
        "\\DosDevices\\C:": (BINARY, b"DMIO:ID:" + bytes.fromhex("28732ac11ff8d211ba4b00a0c93ec93b")),
        "\\DosDevices\\D:": (BINARY, struct.pack("<IQ", 0x1234ABCD, 1 << 20)),
        "\\DosDevices\\E:": (BINARY, "\\??\\SCSI#CdRom".encode("utf-16-le")),
        "\\??\\Volume{x}": (BINARY, b"x"),
    },
})
USERS = "SAM\\Domains\\Account\\Users\\"
make("SAM", {
    USERS + "000001F4": {"V": (BINARY, user("Administrator", "")), "F": (BINARY, account(0x11))},
    USERS + "000003E9": {"V": (BINARY, user("ann", "Ann Example")), "F": (BINARY, account(0x10))},
    USERS + "Names\\ann": {},
})
OBJECTS = "Objects\\"
DEFAULT = "{12345678-0000-0000-0000-000000000000}"
make("BCD", {
    OBJECTS + "{9dea862c-5cdd-4e70-acc1-f32b344d4795}\\Elements\\23000003": {"Element": (SZ, DEFAULT)},
    OBJECTS + DEFAULT + "\\Elements\\12000004": {"Element": (SZ, "Windows 11")},
})
make("DEFAULT", {"Keyboard Layout\\Preload": {"1": (SZ, "00000807")}})

# Further versions, each as its own setup leaves these values.
VERSIONS = {
    "xp": {"ProductName": (SZ, "Microsoft Windows XP"), "CurrentVersion": (SZ, "5.1"), "CurrentBuildNumber": (SZ, "2600"),
           "CSDVersion": (SZ, "Service Pack 3"), "InstallDate": (DWORD, 1300000000), "SystemRoot": (SZ, "C:\\WINDOWS")},
    "7": {"ProductName": (SZ, "Windows 7 Professional"), "CurrentVersion": (SZ, "6.1"), "CurrentBuildNumber": (SZ, "7601"),
          "InstallationType": (SZ, "Client"), "EditionID": (SZ, "Professional"), "InstallDate": (DWORD, 1400000000)},
    "8": {"ProductName": (SZ, "Windows 8.1 Pro"), "CurrentVersion": (SZ, "6.3"), "CurrentBuildNumber": (SZ, "9600"),
          "InstallationType": (SZ, "Client"), "EditionID": (SZ, "Professional"), "InstallDate": (DWORD, 1450000000)},
    "2019": {"ProductName": (SZ, "Windows Server 2019 Standard"), "CurrentVersion": (SZ, "6.3"),
             "CurrentMajorVersionNumber": (DWORD, 10), "CurrentMinorVersionNumber": (DWORD, 0), "UBR": (DWORD, 5122),
             "CurrentBuildNumber": (SZ, "17763"), "InstallationType": (SZ, "Server"), "EditionID": (SZ, "ServerStandard"),
             "ReleaseId": (SZ, "1809"), "InstallDate": (DWORD, 1600000000)},
}
for version, values in VERSIONS.items():
    make(version + "/SOFTWARE", {CURRENT: values})
    processor = "x86" if version == "xp" else "AMD64"
    make(version + "/SYSTEM", {
        "Select": {"Current": (DWORD, 1)},
        "ControlSet001\\Control\\ComputerName\\ComputerName": {"ComputerName": (SZ, "PC-" + version.upper())},
        "ControlSet001\\Control\\Session Manager\\Environment": {"PROCESSOR_ARCHITECTURE": (SZ, processor)},
        "ControlSet001\\Control\\TimeZoneInformation": {"StandardName": (SZ, "W. Europe Standard Time")},
        "ControlSet001\\Control\\Nls\\Language": {"Default": (SZ, "0409")},
    })
