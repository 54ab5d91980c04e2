"""Clients of [MS-FSRVP]: every method with any parameters.  SambaClient calls
through Samba's RPC client library; PipeClient through smb2.py, which sends stub
bytes of any kind, and calls before the last was answered.  Samba has no stubs of
this interface for Python, so the NDR is by hand; nor can its library sign there
(it looks for a service name among the stubs, and crashes)."""

import struct
import uuid

import samba.credentials
import samba.param
from samba.dcerpc import base

import lab
import smb2

INTERFACE = uuid.UUID('a8e0653c-2744-4389-a61d-7373df8b2292')
NDR = uuid.UUID('8a885d04-1ceb-11c9-9fe8-08002b104860')
TRANSCEIVE = 0x0011C017

OK = 0
WAIT_TIMEOUT = 0x102
COMMIT_TIMEOUT = 0x80042500
BAD_STATE = 0x80042301
OBJECT_NOT_FOUND = 0x80042308
NOT_SUPPORTED = 0x8004230C
ALREADY_EXISTS = 0x8004230D
IN_PROGRESS = 0x80042316
UNSUPPORTED_CONTEXT = 0x8004231B
NO_SPACE = 0x8004231F
ID_MISMATCH = 0x80042501
ACCESS_DENIED = 0x80070005
INVALID_ARGUMENT = 0x80070057

NULL = uuid.UUID(int=0)


class Fault(Exception):
    pass


class Disconnected(Exception):
    pass


def unc(share, host='127.0.0.1', end=''):
    return '\\\\%s\\%s%s' % (host, share, end)


def string(text):
    """A top-level [string] of UTF-16: conformant, varying, with its NUL."""
    data = (text + '\0').encode('utf-16-le')
    count = len(data) // 2
    out = struct.pack('<III', count, 0, count) + data
    return out + bytes(-len(out) % 4)


def read_string(data, at):
    size, offset, count = struct.unpack_from('<III', data, at)
    at += 12
    text = data[at:at + 2 * count].decode('utf-16-le').rstrip('\0')
    at += 2 * count
    return text, at + -at % 4


class Methods:
    """Of an interface that calls: call(opnum, stub) is the reply's stub."""

    def result(self, opnum, stub=b''):
        return struct.unpack('<I', self.call(opnum, stub)[-4:])[0]

    def version(self):
        return struct.unpack('<III', self.call(0))

    def set_context(self, context):
        return self.result(1, struct.pack('<I', context))

    def start(self, client_id=None):
        out = self.call(2, (client_id or uuid.uuid4()).bytes_le)
        return struct.unpack('<I', out[16:])[0], uuid.UUID(bytes_le=out[:16])

    def add(self, set_id, name, client_id=None):
        out = self.call(3, (client_id or uuid.uuid4()).bytes_le +
                        set_id.bytes_le + string(name))
        return struct.unpack('<I', out[16:])[0], uuid.UUID(bytes_le=out[:16])

    def commit(self, set_id, timeout=60000):
        return self.result(4, set_id.bytes_le + struct.pack('<I', timeout))

    def expose(self, set_id, timeout=1800000):
        return self.result(5, set_id.bytes_le + struct.pack('<I', timeout))

    def recovery_complete(self, set_id):
        return self.result(6, set_id.bytes_le)

    def abort(self, set_id):
        return self.result(7, set_id.bytes_le)

    def is_path_supported(self, name):
        out = self.call(8, string(name))
        supported, pointer = struct.unpack_from('<II', out)
        owner = read_string(out, 8)[0] if pointer else None
        return struct.unpack('<I', out[-4:])[0], supported, owner

    def is_path_shadow_copied(self, name):
        present, compatibility, result = struct.unpack(
            '<III', self.call(9, string(name)))
        return result, present, compatibility

    def mapping(self, copy_id, set_id, name, level=1):
        """(result, {...} or None)"""
        stub = copy_id.bytes_le + set_id.bytes_le + string(name)
        out = self.call(10, stub + struct.pack('<I', level))
        (result,) = struct.unpack('<I', out[-4:])
        if len(out) < 60 or not struct.unpack_from('<I', out, 4)[0]:
            return result, None
        # The 8-byte time stamp aligns the structure.
        at = 8
        found = {'set': uuid.UUID(bytes_le=out[at:at + 16]),
                 'copy': uuid.UUID(bytes_le=out[at + 16:at + 32])}
        share, exposed, found['time'] = struct.unpack_from('<IIQ', out,
                                                           at + 32)
        at += 48
        if share:
            found['share'], at = read_string(out, at)
        if exposed:
            found['exposed'], at = read_string(out, at)
        return result, found

    def delete(self, set_id, copy_id, name):
        return self.result(11, set_id.bytes_le + copy_id.bytes_le +
                           string(name))

    def prepare(self, set_id, timeout=1800000):
        return self.result(12, set_id.bytes_le + struct.pack('<I', timeout))


class PipeClient(Methods):
    """One pipe of one connection."""

    def __init__(self, server, user='hvrsadmin', timeout=200):
        self.connection = smb2.Connection(
            server.port, getattr(server, 'address', '127.0.0.1'),
            timeout=timeout)
        session = smb2.Session(self.connection, user, user)
        self.pipe = smb2.Tree(session, 'IPC$').create(
            'FssagentRpc', disposition=smb2.OPEN)
        self.call_id = 0
        body = struct.pack('<HHIBBH', 4280, 4280, 0, 1, 0, 0)
        body += struct.pack('<HBB', 0, 1, 0)
        body += INTERFACE.bytes_le + struct.pack('<HH', 1, 0)
        body += NDR.bytes_le + struct.pack('<I', 2)
        kind, _ = self._exchange(11, body)
        assert kind == 12, 'bind was answered by %d' % kind

    def close(self):
        self.connection.close()

    def send(self, kind, body):
        self.call_id += 1
        head = struct.pack('<BBBBIHHI', 5, 0, kind, 3, 0x10, 16 + len(body),
                           0, self.call_id)
        return self.pipe.fsctl_send(TRANSCEIVE, head + body)

    def receive(self, mid):
        reply = self.connection.wait(mid)
        data = smb2.ioctl_output(reply)
        if reply.status != smb2.OK or len(data) < 16:
            raise Disconnected(smb2.status_name(reply.status))
        return data[2], data[16:]

    def _exchange(self, kind, body):
        return self.receive(self.send(kind, body))

    def start_call(self, opnum, stub):
        return self.send(0, struct.pack('<IHH', len(stub), 0, opnum) + stub)

    def end_call(self, mid):
        kind, body = self.receive(mid)
        if kind != 2:
            raise Fault('0x%08x' % struct.unpack_from('<I', body, 8))
        return body[8:]

    def call(self, opnum, stub=b''):
        """The stub of the reply, its last 4 bytes the result."""
        return self.end_call(self.start_call(opnum, stub))


class SambaClient(Methods):
    """One connection of Samba's client library."""

    def __init__(self, server, user='hvrsadmin', timeout=200):
        settings = samba.param.LoadParm()
        settings.load_default()
        settings.set('smb ports' if lab.SERIES < (4, 25) else
                     'client smb transports', str(server.port))
        who = samba.credentials.Credentials()
        who.guess(settings)
        who.set_username(user)
        who.set_password(user)
        who.set_kerberos_state(samba.credentials.DONT_USE_KERBEROS)
        self.library = base.ClientConnection(
            'ncacn_np:127.0.0.1[\\pipe\\FssagentRpc]',
            (str(INTERFACE), 1), lp_ctx=settings, credentials=who)
        self.library.request_timeout = timeout

    def close(self):
        self.library = None

    def call(self, opnum, stub=b''):
        """The stub of the reply, its last 4 bytes the result."""
        return self.library.request(opnum, stub)
