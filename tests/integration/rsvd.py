"""A client of MS-RSVD: opens of shared virtual disks, the tunnel, SCSI
commands.  Bytes are put together here from the protocol, not with the help of
the code under test."""

import collections
import os
import struct
import time
import uuid

import lab
import smb2

QUERY_SUPPORT, SYNC_TUNNEL, ASYNC_TUNNEL = 0x90300, 0x90304, 0x90364
OFFLOAD_READ, OFFLOAD_WRITE = 0x94264, 0x98268
CONTEXT = bytes.fromhex('9CCBCF9E04C1E643980E158DA1F6EC83')
SUFFIX = ':SharedVirtualDisk'

INITIAL_INFO, SCSI, CHECK_CONNECTION, SRB_STATUS, DISK_INFO, VALIDATE = \
    range(0x02001001, 0x02001007)

META, PROGRESS, SET_QUERY, DELETE = 0x02002101, 0x02002002, 0x02002005, \
    0x02002006
TRACKING_PARAMETERS, TRACKING_START, TRACKING_STOP, CHANGES, SAFE_SIZE = \
    0x02002008, 0x02002009, 0x0200200A, 0x0200200C, 0x0200200D
RESIZE, SNAPSHOT, OPTIMIZE, EXTRACT, CONVERT, APPLY = range(6)
VM, CDP, WRITEABLE = 1, 3, 4
INIT, BLOCK, SWITCH, UNBLOCK, FINAL = range(1, 6)

STORED = 0xC05C0000
NOT_STORED, ATTENTION, CAPACITY, RES_PREEMPTED, RES_RELEASED, REG_PREEMPTED \
    = range(0xC05CFF00, 0xC05CFF06)
CONFLICT, WRONG_TYPE, VERSION, VHD_SHARED = range(0xC05CFF07, 0xC05CFF0B)
SHARING_VIOLATION = 0xC0000043

GOOD, CHECK, RESERVATION_CONFLICT = 0, 2, 0x18
IN, OUT, NONE = 1, 0, 2
NO_BUFFERING = 8
ACCESS = 0x3 | 0x80 | 0x20000
WE, EA, WE_RO, EA_RO, WE_AR, EA_AR = 1, 3, 5, 6, 7, 8
REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, ABORT, IGNORE, MOVE = range(8)

Result = collections.namedtuple('Result', 'status sense data srb')


def make_disk(path, size=64 * lab.MIB, kind='dynamic', block=lab.MIB):
    """A VHDX by qemu-img."""
    options = 'subformat=%s,block_size=%d' % (kind, block)
    lab.run('qemu-img', 'create', '-q', '-f', 'vhdx', '-o', options, path,
            str(size))
    set_physical(path)
    lab.run('chown', 'hvrs:hvrs', path)
    return path


def set_physical(path, size=4096):
    """Hyper-V's disks have physical sectors of 4 KiB, qemu-img's of 512."""
    head = lab.content(path, 0, 4 * lab.MIB)
    table = head.index(b'metadata')
    entry = head.index(uuid.UUID(
        'CDA348C7-445D-4471-9CC9-E9885251C556').bytes_le, table)
    (offset,) = struct.unpack_from('<I', head, entry + 16)
    lab.put(path, table + offset, struct.pack('<I', size))


def open_context(initiator, version=1, has=None, originator=1, host='Client01',
                 request=1, flags=0):
    name = host.encode('utf-16-le')
    data = struct.pack('<IB3x16sIIQH', version,
                       (1 if initiator else 0) if has is None else has,
                       initiator.bytes_le if initiator else bytes(16), flags,
                       originator, request, len(name))
    data += name[:126].ljust(126, b'\0')
    return data + (bytes(24) if version == 2 else b'')


def target(snapshot, kind=VM, namespace=0, name=b'RSVD_TARGET_SPECIFIER_EA',
           cut=None):
    """The create context of an open of a snapshot."""
    value = (struct.pack('<II', namespace, kind) + snapshot.bytes_le)[:cut]
    return (b'ExtA', struct.pack('<IBBH', 0, 0x80, len(name), len(value)) +
            name + b'\0' + value)


def meta(kind, data=b'', transaction=None):
    return (transaction or uuid.uuid4()).bytes_le + struct.pack(
        '<II', kind, 0) + data


def snapshot_data(ident, stages, flags=0, kind=VM, payload=0, pad=24):
    stages = list(stages) + [0] * (6 - len(stages))
    return struct.pack('<II6I', kind, flags, *stages) + ident.bytes_le + \
        struct.pack('<I', payload) + bytes(pad)


def name_data(name, encoding='utf-16-le'):
    text = (name + '\0').encode(encoding)
    return struct.pack('<I', len(text)) + text + bytes(4)


def make_set(path, size=64 * lab.MIB, block=None):
    """A VHD Set by hvrs-vhd, as a rule as Windows would have made it."""
    lab.run('hvrs-vhd', 'create', '--size', str(size),
            *(['--block-size', str(block)] if block else []), path)
    for name in os.listdir(os.path.dirname(path)):
        lab.run('chown', 'hvrs:hvrs', os.path.join(os.path.dirname(path),
                                                   name))
    return path


def pack(contexts):
    out = b''
    for i, (name, data) in enumerate(contexts):
        at = (16 + len(name) + 7) // 8 * 8
        one = struct.pack('<IHHHHI', 0, 16, len(name), 0, at, len(data))
        one = (one + name).ljust(at, b'\0') + data
        if i + 1 < len(contexts):
            one = one.ljust((len(one) + 7) // 8 * 8, b'\0')
            one = struct.pack('<I', len(one)) + one[4:]
        out += one
    return out


def unpack(body):
    """[(name, data)] of a CREATE response."""
    found = []
    offset, length = struct.unpack_from('<II', body, 80)
    data = body[offset - 64:offset - 64 + length] if length else b''
    while data:
        step, name, size, _, at, count = struct.unpack_from('<IHHHHI', data)
        found.append((data[name:name + size], data[at:at + count]))
        data = data[step:] if step else b''
    return found


def create_body(name, contexts=(), access=ACCESS, disposition=smb2.OPEN,
                options=NO_BUFFERING, sharing=7):
    text = name.replace('/', '\\').encode('utf-16-le')
    data = pack(contexts)
    at = 120 + (len(text) + 7) // 8 * 8
    body = struct.pack('<HBBI8s8sIIIIIHHII', 57, 0, 0, 2, bytes(8), bytes(8),
                       access, 0, sharing, disposition, options, 120,
                       len(text), at if data else 0, len(data))
    return (body + text).ljust(at - 64, b'\0') + data


class Disk(smb2.File):
    """A shared open; raises StatusError where the server refuses."""

    def __init__(self, tree, name, initiator=True, context=None, version=1,
                 contexts=(), suffix=SUFFIX, **how):
        self.initiator = uuid.uuid4() if initiator is True else initiator
        if context is None:
            context = open_context(self.initiator, version)
        sent = list(contexts)
        if context:
            sent.append((CONTEXT, context))
        reply = tree.call(smb2.CREATE, create_body(name + suffix, sent, **how))
        if reply.status != smb2.OK:
            raise smb2.StatusError(reply.status, 'shared open of ' + name)
        super().__init__(tree, reply.body)
        self.answers = unpack(reply.body)
        self.request = 0

    def tunnel(self, operation, body=b'', max_out=4096, code=SYNC_TUNNEL):
        """(SMB2 status, header status, body)"""
        return self.tunnel_end(self.tunnel_send(operation, body, max_out,
                                                code))

    def tunnel_send(self, operation, body=b'', max_out=4096,
                    code=SYNC_TUNNEL):
        self.request += 1
        self.sent = (operation, self.request)
        return (self.fsctl_send(code, struct.pack('<IIQ', *(
            operation, 0, self.request)) + body, max_out), operation,
            self.request)

    def tunnel_end(self, sent):
        mid, operation, request = sent
        reply = self.tree.connection.wait(mid)
        out = smb2.ioctl_output(reply)
        if reply.status != smb2.OK:
            return reply.status, None, out
        got, status, echoed = struct.unpack_from('<IIQ', out)
        assert (got, echoed) == (operation, request), out.hex()
        return reply.status, status, out[16:]

    # ---- version 2

    def meta_send(self, kind, data=b'', transaction=None, max_out=4096):
        return self.tunnel_send(META, meta(kind, data, transaction), max_out,
                                ASYNC_TUNNEL)

    def meta(self, kind, data=b'', transaction=None):
        """The header's status."""
        smb, status, _ = self.tunnel_end(self.meta_send(kind, data,
                                                        transaction))
        assert smb == 0, hex(smb)
        return status

    def snapshot(self, flags=1, ident=None):
        """As Hyper-V does it, in two calls; the id."""
        ident, transaction = ident or uuid.uuid4(), uuid.uuid4()
        for stages, flag in (((INIT,), flags),
                             ((BLOCK, SWITCH, UNBLOCK, FINAL), 0)):
            status = self.meta(SNAPSHOT, snapshot_data(ident, stages, flag),
                               transaction)
            assert status == 0, hex(status)
        return ident

    def apply(self, ident, kind=VM):
        return self.meta(APPLY, struct.pack('<I', kind) + ident.bytes_le)

    def resize(self, size, expand=0, unsafe=0, safe=0):
        return self.meta(RESIZE, struct.pack('<QBBBB', size, expand, unsafe,
                                             safe, 0) + bytes(4))

    def extract(self, name, source, limit=None, flags=0, kind=VM):
        return self.meta(EXTRACT, struct.pack(
            '<III', kind, 0, flags) + source.bytes_le +
            (limit or uuid.UUID(int=0)).bytes_le + name_data(name))

    def delete(self, ident, persist=0, kind=VM):
        smb, status, _ = self.tunnel(DELETE, ident.bytes_le + struct.pack(
            '<II', persist, kind))
        assert smb == 0, hex(smb)
        return status

    def query(self, kind, snapshot_kind=0, ident=None, max_out=4096):
        return self.tunnel(SET_QUERY, struct.pack('<II', kind, snapshot_kind) +
                           (ident or uuid.UUID(int=0)).bytes_le, max_out)

    # ---- change tracking

    def tracking_start(self, name='', append=0, offset=56, reserved=0):
        text = (name + '\0').encode('utf-16-le') if name else b''
        smb, status, body = self.tunnel(TRACKING_START, bytes(16) +
                                        struct.pack('<II16sQII', offset,
                                                    len(text), bytes(16), 0,
                                                    append, reserved) + text)
        assert smb == 0 and body == b'', (hex(smb), body)
        return status

    def tracking_stop(self):
        """(header status, ChangeTrackingStatus)"""
        smb, status, body = self.tunnel(TRACKING_STOP)
        assert smb == 0 and len(body) == 4, (hex(smb), body)
        return status, struct.unpack('<I', body)[0]

    def tracking(self):
        """(ChangeTrackingStatus, LogFileSize)"""
        smb, status, body = self.tunnel(TRACKING_PARAMETERS)
        assert (smb, status, len(body)) == (0, 0, 16), (hex(smb), status)
        first, size = struct.unpack('<QQ', body)
        return first, size

    def changes_page(self, target, limit, offset, length, kind=VM,
                     max_out=65536):
        """(header status, processed, ranges)"""
        smb, status, body = self.tunnel(
            CHANGES, target.bytes_le + limit.bytes_le +
            struct.pack('<IIQQ', kind, 0, offset, length), max_out)
        assert smb == 0, hex(smb)
        if status:
            return status, 0, []
        done, count, zero = struct.unpack_from('<QII', body)
        assert zero == 0 and len(body) == 16 + 24 * count
        assert len(body) + 16 <= max_out
        found = [struct.unpack_from('<QQQ', body, 16 + 24 * i)
                 for i in range(count)]
        assert all(r[2] == 0 for r in found)
        return 0, done, [r[:2] for r in found]

    def changes(self, target, limit, length, max_out=65536):
        """All ranges of the disk, as a client goes on from page to page."""
        at, found = 0, []
        while at < length:
            status, done, ranges = self.changes_page(
                target, limit, at, length - at, max_out=max_out)
            assert status == 0 and done > 0, (hex(status), done)
            found += ranges
            at += done
        ends = [(0, 0)] + found
        assert all(a[0] + a[1] <= b[0] for a, b in zip(ends, found)), found
        return found

    def safe_size(self):
        smb, status, body = self.tunnel(SAFE_SIZE)
        assert (smb, status, len(body)) == (0, 0, 8), (hex(smb), status)
        return struct.unpack('<Q', body)[0]

    def snapshots(self):
        smb, status, body = self.query(2, VM, max_out=65536)
        assert (smb, status) == (0, 0), (hex(smb), status and hex(status))
        kind, _, complete, count = struct.unpack_from('<IIB3xI', body)
        assert (kind, complete) == (2, 1) and len(body) == 16 + 16 * count
        return [uuid.UUID(bytes_le=body[16 + 16 * i:32 + 16 * i])
                for i in range(count)]

    def scsi_body(self, cdb, out=b'', room=0, length=None, direction=None):
        if direction is None:
            direction = OUT if out else IN if room else NONE
        return struct.pack('<HHBBBBII', 36, 0, length or 16, 20, direction, 0,
                           0x80 if out else 0x40,
                           len(out) or room) + bytes(cdb).ljust(
                               16, b'\0') + bytes(4) + out

    def scsi_send(self, cdb, out=b'', room=0, **how):
        return self.tunnel_send(SCSI, self.scsi_body(cdb, out, room, **how),
                                max(4096, room + 52))

    def scsi_end(self, sent):
        smb, status, body = self.tunnel_end(sent)
        assert (smb, status) == (0, 0), (hex(smb), status and hex(status))
        length, srb, scsi = struct.unpack_from('<HBB', body)
        size = struct.unpack_from('<I', body, 12)[0]
        assert length == 36 and body[5] == 20
        assert len(body) == 36 + size, (len(body), size)
        self.sense = sense = body[16:36]
        code = (sense[2] & 15) << 16 | sense[12] << 8 | sense[13]
        return Result(scsi, code if scsi == CHECK else 0, body[36:], srb)

    def scsi(self, cdb, out=b'', room=0, **how):
        return self.scsi_end(self.scsi_send(cdb, out, room, **how))

    def pr_out_send(self, action, kind=0, key=0, action_key=0, aptpl=0):
        cdb = [0x5F, action, kind, 0, 0, 0, 0, 0, 24]
        return self.scsi_send(cdb, struct.pack('>QQIBxxx', key, action_key, 0,
                                               aptpl), length=10)

    def pr_out(self, *arguments, **how):
        return self.scsi_end(self.pr_out_send(*arguments, **how))

    def pr_in(self, action, room=8192):
        return self.scsi([0x5E, action, 0, 0, 0, 0, 0, room >> 8, room & 255],
                         room=room)

    def keys(self):
        data = self.pr_in(0).data
        generation, length = struct.unpack_from('>II', data)
        return generation, sorted(struct.unpack('>%dQ' % (length // 8),
                                                data[8:8 + length]))

    def reservation(self):
        """(key, type) or None"""
        data = self.pr_in(1).data
        if len(data) == 8:
            return None
        return struct.unpack_from('>Q', data, 8)[0], data[21]

    def read_status(self, offset, length):
        """(status, data)"""
        reply = self.tree.connection.wait(self.read_send(offset, length))
        if reply.status != smb2.OK:
            return reply.status, b''
        start, got = reply.body[2], struct.unpack_from('<I', reply.body, 4)[0]
        return 0, reply.body[start - 64:start - 64 + got]

    def write_status(self, offset, data):
        return self.tree.connection.wait(self.write_send(offset, data)).status


class Case(lab.Case):
    """A share with shared disks; self.disk() opens t/disk.vhdx."""

    shares = {'vm': ['vfs objects = hvrs', 'hvrs:shared disks = yes'],
              'vmraw': ('/srv/xfs/vm', []),
              'vmoff': ['vfs objects = hvrs']}

    def setUp(self):
        super().setUp()
        self.image = make_disk(self.path('disk.vhdx'))

    def disk(self, name='t/disk.vhdx', tree=None, **how):
        return Disk(tree or self.tree, name, **how)

    def at(self, name, snapshot, tree=None, **how):
        """A snapshot opened by its target specifier alone."""
        how.setdefault('kind', VM)
        context = target(snapshot, **{k: how.pop(k) for k in (
            'kind', 'namespace', 'cut') if k in how})
        return Disk(tree or self.tree, name, context=b'', initiator=None,
                    contexts=[context], **how)

    def other(self, **how):
        """A shared open of a client of its own."""
        return self.disk(tree=self.connect(), **how)

    def refused(self, status, *arguments, **how):
        with self.assertRaises(smb2.StatusError) as caught:
            self.disk(*arguments, **how)
        self.expect(status, caught.exception.status)

    def good(self, result):
        self.assertEqual((GOOD, 1), (result.status, result.srb),
                         '%06x' % result.sense)
        return result

    def conflict(self, result):
        self.assertEqual((RESERVATION_CONFLICT, 4, 0),
                         (result.status, result.srb, result.sense))

    def sense(self, code, result):
        self.assertEqual('%02x %06x' % (CHECK, code),
                         '%02x %06x' % (result.status, result.sense))


def server_process(server, disk):
    """The pid of the smbd that serves a connection, from its socket."""
    port = disk.tree.connection.socket.getsockname()[1]
    for _ in range(100):
        pid = find_process(server, ':%04X' % port)
        if pid is not None:
            return pid
        time.sleep(0.02)
    raise AssertionError('no process serves port %d' % port)


def find_process(server, wanted):
    inodes = set()
    for line in open('/proc/net/tcp').read().split('\n')[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[2].endswith(wanted):
            inodes.add('socket:[%s]' % fields[9])
    for pid in server.children():
        try:
            names = os.listdir('/proc/%d/fd' % pid)
        except OSError:
            continue
        for fd in names:
            try:
                if os.readlink('/proc/%d/fd/%s' % (pid, fd)) in inodes:
                    return pid
            except OSError:
                pass
    return None
