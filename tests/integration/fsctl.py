"""Codes and wire forms of the file-system controls, and what the tests of
their rules share: kinds of handles, and the proof that nothing changed."""

import struct

import lab
import smb2
from smb2 import INVALID_PARAMETER, OK

SET_SPARSE = 0x000900C4
SET_ZERO_DATA = 0x000980C8
QUERY_ALLOCATED_RANGES = 0x000940CF
FILE_LEVEL_TRIM = 0x00098208
GET_INTEGRITY = 0x0009027C
SET_INTEGRITY = 0x0009C280
SET_INTEGRITY_EX = 0x00090380
QUERY_FILE_REGIONS = 0x00090284
DUPLICATE_EXTENTS = 0x00098344
DUPLICATE_EXTENTS_EX = 0x000983E8

CLUSTER = 4096
TOP = 2**63 - 1


def number(value):
    return value & (2**64 - 1)


def zero(offset, beyond):
    return struct.pack('<QQ', number(offset), number(beyond))


def query(offset, length):
    return struct.pack('<QQ', number(offset), number(length))


def ranges(data):
    """The answer of QUERY_ALLOCATED_RANGES."""
    return [struct.unpack_from('<QQ', data, at)
            for at in range(0, len(data), 16)]


def trim(*parts, key=0, count=None):
    return struct.pack('<II', key, len(parts) if count is None else count) + \
        b''.join(struct.pack('<QQ', number(a), number(b)) for a, b in parts)


def clone(source, from_offset, to_offset, length):
    id = source if isinstance(source, bytes) else source.id
    return id + struct.pack('<QQQ', number(from_offset), number(to_offset),
                            number(length))


def clone_ex(source, from_offset, to_offset, length, flags=0, size=0x30):
    return struct.pack('<Q', size) + clone(source, from_offset, to_offset,
                                           length) + \
        struct.pack('<II', flags, 0)


def regions(offset, length, usage=2):
    return struct.pack('<QQII', number(offset), number(length), usage, 0)


SHARES = {}
for name in ('vm', 'vmbtrfs', 'vmext4'):
    SHARES[name] = ['vfs objects = hvrs']
    SHARES[name + '-ro'] = (lab.DIRECTORIES[name],
                            ['vfs objects = hvrs', 'read only = yes'])

ON_DISK = ('vm', 'vmbtrfs', 'vmext4')


class Case(lab.Case):
    """Tests of one FSCTL.  DATA is what the file holds at first."""

    shares = SHARES
    code = None
    max_out = 65536
    DATA = lab.pattern(256 * lab.KIB + 123)

    def handle(self, kind):
        """A handle on t/disk.vhdx of the wanted kind."""
        return getattr(self, 'handle_' + kind)()

    def handle_rw(self):
        return self.open()

    def handle_read(self):
        return self.open(access=smb2.READ_DATA, disposition=smb2.OPEN)

    def handle_append(self):
        return self.open(access=smb2.APPEND_DATA, disposition=smb2.OPEN)

    def handle_attributes(self):
        return self.open(access=smb2.WRITE_ATTRIBUTES, disposition=smb2.OPEN)

    def handle_look(self):
        return self.open(access=smb2.READ_ATTRIBUTES, disposition=smb2.OPEN)

    def handle_directory(self):
        return self.tree.create('t', access=smb2.READ_ONLY | 6,
                                disposition=smb2.OPEN,
                                options=smb2.DIRECTORY)

    def handle_look_directory(self):
        return self.tree.create('t', access=smb2.READ_ATTRIBUTES,
                                disposition=smb2.OPEN,
                                options=smb2.DIRECTORY)

    def handle_readonly(self):
        tree = self.connect(self.share + '-ro')
        return self.open(tree=tree, access=smb2.READ_ONLY,
                         disposition=smb2.OPEN)

    def handle_other(self):
        tree = self.connect(user='other')
        return self.open(tree=tree, access=smb2.READ_ONLY,
                         disposition=smb2.OPEN)

    def handle_closed(self):
        file = self.open()
        file.close()
        return file

    def handle_stranger(self):
        """A live id that belongs to another session of this connection."""
        session = smb2.Session(self.tree.connection, 'hvrsadmin', 'hvrsadmin')
        tree = smb2.Tree(session, self.share)
        theirs = tree.create('t/disk.vhdx', access=smb2.READ_ONLY,
                             disposition=smb2.OPEN)
        ours = self.open()
        ours.id = theirs.id
        return ours

    def handle_elsewhere(self):
        """A live id of this session, but of another of its shares."""
        tree = smb2.Tree(self.tree.session, self.share + '-ro')
        theirs = tree.create('t/disk.vhdx', access=smb2.READ_ONLY,
                             disposition=smb2.OPEN)
        ours = self.open()
        ours.id = theirs.id
        return ours

    def handle_locked(self):
        """Another open holds a lock on bytes 5000 to 5009."""
        self.keeper = self.open()
        self.expect(OK, self.keeper.lock(5000, 10))
        return self.open()

    def handle_share_locked(self):
        self.keeper = self.open()
        self.expect(OK, self.keeper.lock(5000, 10, exclusive=False))
        return self.open()

    def handle_own_lock(self):
        file = self.open()
        self.expect(OK, file.lock(5000, 10))
        return file

    def shape(self, name='disk.vhdx'):
        return [(e[0], e[1], e[2]) for e in lab.extents(self.path(name))]

    def refuse(self, kind, data, status, max_out=None):
        """A request that must fail and change nothing."""
        path = self.make(data=self.DATA)
        before = self.shape()
        file = self.handle(kind)
        out = self.expect_fsctl(status, file, self.code, data,
                                self.max_out if max_out is None else max_out)
        self.assertEqual(b'', out)
        self.assert_bytes(self.DATA, lab.content(path))
        self.assertEqual(before, self.shape())
        self.server.alive()


def refused(cls_rows):
    """Rows (name, kind of handle, input, status[, room for output])."""
    return lab.rows(cls_rows, lambda self, *row: self.refuse(*row))
