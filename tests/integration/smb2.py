"""A small SMB 3.0.2 client for tests: every field of a request can be set,
requests can be in flight together, and replies are seen in the order they
come.  Only the login uses Samba's Python modules; a session that is bound to
more connections is signed, with GnuTLS' AES-CMAC."""

import collections
import copy
import ctypes
import hashlib
import hmac
import socket
import struct
import uuid

from samba import credentials, gensec, param

NEGOTIATE, SESSION_SETUP, LOGOFF, TREE_CONNECT, TREE_DISCONNECT, CREATE, \
    CLOSE, FLUSH, READ, WRITE, LOCK, IOCTL, CANCEL, ECHO, QUERY_DIRECTORY, \
    CHANGE_NOTIFY, QUERY_INFO, SET_INFO, OPLOCK_BREAK = range(19)

OK = 0
PENDING = 0x00000103
BUFFER_OVERFLOW = 0x80000005
NO_MORE_FILES = 0x80000006
INFO_LENGTH_MISMATCH = 0xC0000004
INVALID_HANDLE = 0xC0000008
INVALID_PARAMETER = 0xC000000D
INVALID_DEVICE_REQUEST = 0xC0000010
END_OF_FILE = 0xC0000011
MORE_PROCESSING = 0xC0000016
ACCESS_DENIED = 0xC0000022
BUFFER_TOO_SMALL = 0xC0000023
NAME_NOT_FOUND = 0xC0000034
NAME_COLLISION = 0xC0000035
FILE_LOCK_CONFLICT = 0xC0000054
FILE_FORCED_CLOSED = 0xC00000B6
CONTEXT_MISMATCH = 0xC0000719
RANGE_NOT_LOCKED = 0xC000007E
DUPLICATE_OBJECTID = 0xC000022A
FILE_NOT_AVAILABLE = 0xC0000467
LOCK_NOT_GRANTED = 0xC0000055
SHARING_VIOLATION = 0xC0000043
DISK_FULL = 0xC000007F
INTEGER_OVERFLOW = 0xC0000095
MEDIA_WRITE_PROTECTED = 0xC00000A2
NOT_SUPPORTED = 0xC00000BB
CANCELLED = 0xC0000120
FILE_DELETED = 0xC0000123
FILE_CLOSED = 0xC0000128
USER_SESSION_DELETED = 0xC0000203

STATUS_NAMES = {value: name for name, value in list(globals().items())
                if name.isupper() and isinstance(value, int)
                and (value == 0 or value > 18)}

READ_DATA, WRITE_DATA, APPEND_DATA = 0x1, 0x2, 0x4
READ_ATTRIBUTES, WRITE_ATTRIBUTES, DELETE = 0x80, 0x100, 0x10000
READ_WRITE = 0x0012019F
READ_ONLY = 0x00120089
OPEN, CREATE_NEW, OPEN_IF, OVERWRITE_IF = 1, 2, 3, 5
DIRECTORY, NON_DIRECTORY, WRITE_THROUGH, DELETE_ON_CLOSE = 1, 0x40, 2, 0x1000
SHARE_READ = 1
SIGNED, BINDING, CMAC_128 = 8, 1, 203
SPARSE, COMPRESSED, ENCRYPTED = 0x200, 0x800, 0x4000

Reply = collections.namedtuple('Reply', 'mid status command body flags')


def status_name(status):
    return STATUS_NAMES.get(status, '0x%08X' % status)


class StatusError(Exception):
    def __init__(self, status, what=''):
        super().__init__('%s: %s' % (what, status_name(status)))
        self.status = status


def cmac(key, data):
    """AES-128-CMAC."""
    out = ctypes.create_string_buffer(16)
    assert ctypes.CDLL('libgnutls.so.30').gnutls_hmac_fast(
        CMAC_128, key, len(key), data, len(data), out) == 0
    return out.raw


def signing_key(session_key):
    """[MS-SMB2] 3.1.4.2, for SMB 3.0 and 3.0.2."""
    return hmac.new(session_key[:16], b'\0\0\0\1SMB2AESCMAC\0\0SmbSign\0'
                    b'\0\0\0\x80', hashlib.sha256).digest()[:16]


def signature(key, packet):
    """What a packet with this head and body is signed with."""
    return cmac(key, packet[:48] + bytes(16) + packet[64:])


class Connection:
    """One TCP connection.  Replies nobody has asked for yet are kept in the
    order they came."""

    def __init__(self, port, host='127.0.0.1', timeout=60, guid=None,
                 capabilities=0x7F):
        self.socket = socket.create_connection((host, port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.mid = 0
        self.waiting = collections.deque()
        self.asynchronous = {}
        # Of the sessions that are signed here.
        self.keys = {}
        # A GUID of its own keeps smbd from joining two connections.
        self.guid = guid or uuid.uuid4().bytes
        body = struct.pack('<HHHHI16sQHH', 36, 2, 1, 0, capabilities,
                           self.guid, 0, 0x0300, 0x0302)
        reply = self.wait(self.send(NEGOTIATE, body))
        (self.capabilities,) = struct.unpack_from('<I', reply.body, 24)

    def send(self, command, body, session=0, tree=0, charge=1, mid=None,
             flags=0, async_id=None):
        if mid is None:
            mid, self.mid = self.mid, self.mid + charge
        head = struct.pack('<4sHHIHHII', b'\xfeSMB', 64, charge, 0, command,
                           128, flags, 0) + struct.pack('<Q', mid)
        if async_id is None:
            head += struct.pack('<II', 0xFEFF, tree)
        else:
            head += struct.pack('<Q', async_id)
        head += struct.pack('<Q', session) + bytes(16)
        packet = head + body
        if session in self.keys:
            packet = packet[:16] + struct.pack('<I', flags | SIGNED) + \
                packet[20:]
            packet = packet[:48] + signature(self.keys[session], packet) + \
                body
        self.socket.sendall(struct.pack('>I', len(packet)) + packet)
        return mid

    def receive(self):
        """The next reply on the wire, interim ones included."""
        (length,) = struct.unpack('>I', self._exactly(4))
        packet = self._exactly(length)
        status, command = struct.unpack_from('<IH', packet, 8)
        (flags,) = struct.unpack_from('<I', packet, 16)
        (mid,) = struct.unpack_from('<Q', packet, 24)
        if status == PENDING and flags & 2:
            (self.asynchronous[mid],) = struct.unpack_from('<Q', packet, 32)
        session = struct.unpack_from('<Q', packet, 40)[0]
        # The answer to a login may have the key of the session or its own.
        if session in self.keys and command != SESSION_SETUP and \
                not (status == PENDING and flags & 2):
            assert packet[48:64] == signature(self.keys[session], packet)
        self.last_session = session
        self.last_tree = struct.unpack_from('<I', packet, 36)[0]
        return Reply(mid, status, command, packet[64:], flags)

    def _exactly(self, length):
        data = b''
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            if not more:
                raise ConnectionError('the server closed the connection')
            data += more
        return data

    def wait(self, mid):
        """The final reply to one request."""
        for reply in self.waiting:
            if reply.mid == mid and reply.status != PENDING:
                self.waiting.remove(reply)
                return reply
        while True:
            reply = self.receive()
            if reply.mid == mid and reply.status != PENDING:
                return reply
            self.waiting.append(reply)

    def cancel(self, mid, session):
        """SMB2 CANCEL of a request whose interim reply was seen."""
        self.send(CANCEL, struct.pack('<HH', 4, 0), session, mid=mid,
                  flags=2, async_id=self.asynchronous[mid])

    def echo(self):
        return self.send(ECHO, struct.pack('<HH', 4, 0))

    def close(self):
        self.socket.close()


class Session:
    """With kerberos, the server's name, by that alone; else by NTLM.  With
    bound, a session that is signed, the connection is one more channel of
    that."""

    def __init__(self, connection, user, password, previous=0, kerberos=None,
                 bound=None):
        self.connection = connection
        self.id = bound.id if bound else 0
        self.previous = previous
        self.flags = BINDING if bound else 0
        if bound:
            connection.keys[self.id] = bound.key
        lp = param.LoadParm()
        lp.load_default()
        creds = credentials.Credentials()
        creds.guess(lp)
        creds.set_kerberos_state(
            credentials.MUST_USE_KERBEROS if kerberos
            else credentials.DONT_USE_KERBEROS)
        creds.set_username(user)
        creds.set_password(password)
        login = gensec.Security.start_client(
            {'lp_ctx': lp, 'target_hostname': kerberos or '127.0.0.1'})
        login.set_credentials(creds)
        if kerberos:
            login.set_target_hostname(kerberos)
            login.set_target_service('cifs')
        login.start_mech_by_name('spnego')
        self._login(login, user)
        if bound:
            self.sign()

    def _login(self, login, user):
        done, blob = login.update(b'')
        while True:
            body = struct.pack('<HBBIIHHQ', 25, self.flags, 1, 0, 0, 88,
                               len(blob), self.previous)
            reply = self.connection.wait(self.connection.send(
                SESSION_SETUP, body + blob, self.id))
            self.id = self.connection.last_session
            offset, length = struct.unpack_from('<HH', reply.body, 4)
            blob = reply.body[offset - 64:offset - 64 + length]
            if reply.status == OK:
                self.last = login, blob
                return
            if reply.status != MORE_PROCESSING:
                raise StatusError(reply.status, 'login of %s' % user)
            done, blob = login.update(blob)

    def sign(self):
        """From here on every request on this connection."""
        login, blob = self.last
        login.update(blob)
        self.key = signing_key(login.session_key())
        self.connection.keys[self.id] = self.key

    def logoff(self):
        self.connection.wait(self.connection.send(
            LOGOFF, struct.pack('<HH', 4, 0), self.id))


class Tree:
    """One share of one session: files are opened from it."""

    def __init__(self, session, share):
        self.session = session
        self.connection = session.connection
        self.id = 0
        path = ('\\\\127.0.0.1\\' + share).encode('utf-16-le')
        reply = self.call(TREE_CONNECT,
                          struct.pack('<HHHH', 9, 0, 72, len(path)) + path)
        if reply.status != OK:
            raise StatusError(reply.status, 'share ' + share)
        self.id = self.connection.last_tree
        (self.capabilities,) = struct.unpack_from('<I', reply.body, 8)

    def through(self, session):
        """The same by another channel of its session."""
        other = copy.copy(self)
        other.session, other.connection = session, session.connection
        return other

    def send(self, command, body, charge=1):
        return self.connection.send(command, body, self.session.id, self.id,
                                    charge)

    def call(self, command, body, charge=1):
        return self.connection.wait(self.send(command, body, charge))

    def create_send(self, name, access=READ_WRITE, disposition=OPEN_IF,
                    options=0, attributes=0, sharing=7, oplock=0,
                    contexts=(), flags=0):
        text = name.replace('/', '\\').encode('utf-16-le')
        data = pack_contexts(contexts)
        text += bytes(-len(text) % 8) if data else b''
        body = struct.pack('<HBBI8s8sIIIIIHHII', 57, 0, oplock, 2, bytes(8),
                           bytes(8), access, attributes, sharing, disposition,
                           options, 120, len(name) * 2,
                           120 + len(text) if data else 0, len(data))
        return self.connection.send(CREATE, body + (text + data or b'\0'),
                                    self.session.id, self.id, flags=flags)

    def create(self, name, *args, **how):
        """Opens a file; raises StatusError where the server refuses."""
        reply = self.connection.wait(self.create_send(name, *args, **how))
        if reply.status != OK:
            raise StatusError(reply.status, 'open of ' + name)
        return File(self, reply.body)

    def disconnect(self):
        self.call(TREE_DISCONNECT, struct.pack('<HH', 4, 0))


def pack_contexts(contexts):
    """A chain of create contexts from [(name, data)]."""
    out = b''
    for i, (name, data) in enumerate(contexts):
        at = 16 + len(name) + (-len(name) % 8)
        one = struct.pack('<IHHHHI', 0, 16, len(name), 0, at,
                          len(data)) + name
        one += bytes(at - len(one)) + data
        if i + 1 < len(contexts):
            one += bytes(-len(one) % 8)
            one = struct.pack('<I', len(one)) + one[4:]
        out += one
    return out


def unpack_contexts(body):
    """{name: data} of a CREATE reply."""
    found = {}
    at, length = struct.unpack_from('<II', body, 80)
    data = body[at - 64:at - 64 + length] if length else b''
    while data:
        step, name, size, _, start, count = struct.unpack_from('<IHHHHI',
                                                               data)
        found[data[name:name + size]] = data[start:start + count]
        data = data[step:] if step else b''
    return found


class File:
    def __init__(self, tree, body):
        self.tree = tree
        (self.action,) = struct.unpack_from('<I', body, 4)
        self.contexts = unpack_contexts(body)
        self.oplock = body[2]
        self.size, self.attributes = struct.unpack_from('<QI', body, 48)
        self.id = body[64:80]

    def through(self, tree):
        other = copy.copy(self)
        other.tree = tree
        return other

    def fsctl_send(self, code, data=b'', max_out=65536, flags=1, id=None):
        body = struct.pack('<HHI16sIIIIIIII', 57, 0, code, id or self.id,
                           120, len(data), 0, 0, 0, max_out, flags, 0)
        charge = max(len(data), max_out, 1)
        return self.tree.send(IOCTL, body + (data or b'\0'),
                              (charge - 1) // 65536 + 1)

    def fsctl(self, code, data=b'', max_out=65536, flags=1):
        """Returns (status, output)."""
        reply = self.tree.connection.wait(
            self.fsctl_send(code, data, max_out, flags))
        return reply.status, ioctl_output(reply)

    def read(self, offset, length):
        out = b''
        while length > 0:
            part = min(length, 1 << 20)
            reply = self.tree.connection.wait(self.read_send(offset, part))
            if reply.status == END_OF_FILE:
                break
            if reply.status != OK:
                raise StatusError(reply.status, 'read')
            start, got = reply.body[2], struct.unpack_from('<I', reply.body,
                                                           4)[0]
            out += reply.body[start - 64:start - 64 + got]
            offset, length = offset + got, length - got
        return out

    def read_send(self, offset, length):
        body = struct.pack('<HBBIQ16sIIIHHB', 49, 0x50, 0, length, offset,
                           self.id, 0, 0, 0, 0, 0, 0)
        return self.tree.send(READ, body, (length - 1) // 65536 + 1)

    def write(self, offset, data):
        """Writes all of it; returns nothing, raises StatusError."""
        for at in range(0, len(data), 1 << 20):
            part = data[at:at + (1 << 20)]
            reply = self.tree.connection.wait(
                self.write_send(offset + at, part))
            if reply.status != OK:
                raise StatusError(reply.status, 'write')

    def write_send(self, offset, data):
        body = struct.pack('<HHIQ16sIIHHI', 49, 112, len(data), offset,
                           self.id, 0, 0, 0, 0, 0)
        return self.tree.send(WRITE, body + data, (len(data) - 1) // 65536 + 1)

    def lock(self, offset, length, exclusive=True, unlock=False,
             sequence=0):
        flags = 4 if unlock else (2 if exclusive else 1) | 0x10
        body = struct.pack('<HHI16sQQII', 48, 1, sequence, self.id, offset,
                           length, flags, 0)
        return self.tree.call(LOCK, body).status

    def info(self, level, kind=1, max_out=65536):
        """Returns (status, data) of QUERY_INFO; kind 1 file, 2 volume."""
        body = struct.pack('<HBBIHHIII16sB', 41, kind, level, max_out, 0, 0,
                           0, 0, 0, self.id, 0)
        reply = self.tree.call(QUERY_INFO, body)
        if len(reply.body) < 9 or reply.status not in (OK, BUFFER_OVERFLOW):
            return reply.status, b''
        offset, length = struct.unpack_from('<HI', reply.body, 2)
        return reply.status, reply.body[offset - 64:offset - 64 + length]

    def set_info(self, level, data, kind=1):
        body = struct.pack('<HBBIHHI16s', 33, kind, level, len(data), 96, 0,
                           0, self.id)
        return self.tree.call(SET_INFO, body + data).status

    def set_size(self, size):
        status = self.set_info(20, struct.pack('<Q', size))
        if status != OK:
            raise StatusError(status, 'set size')

    def list(self, pattern='*', level=37):
        """Raw entries of a directory, {name: attributes}."""
        offsets = {1: 64, 2: 68, 3: 94, 12: 12, 37: 104, 38: 80}
        found, flags = {}, 1
        text = pattern.encode('utf-16-le')
        while True:
            body = struct.pack('<HBBI16sHHI', 33, level, flags, 0, self.id,
                               96, len(text), 65536)
            reply = self.tree.call(QUERY_DIRECTORY, body + text)
            if reply.status != OK:
                return found
            start, length = struct.unpack_from('<HI', reply.body, 2)
            data, flags = reply.body[start - 64:start - 64 + length], 0
            while data:
                (step,) = struct.unpack_from('<I', data)
                attributes, size = struct.unpack_from('<II', data, 56)
                name = data[offsets[level]:offsets[level] + size]
                found[name.decode('utf-16-le')] = attributes
                data = data[step:] if step else b''

    def flush(self):
        return self.tree.call(FLUSH, struct.pack('<HHI16s', 24, 0, 0,
                                                 self.id)).status

    def close(self):
        return self.tree.call(CLOSE, struct.pack('<HHI16s', 24, 0, 0,
                                                 self.id)).status


def ioctl_output(reply):
    if len(reply.body) < 48 or reply.status not in (OK, BUFFER_OVERFLOW):
        return b''
    offset, length = struct.unpack_from('<II', reply.body, 32)
    return reply.body[offset - 64:offset - 64 + length]
