"""The parts of hvrs alone, and stacks with other VFS modules above and
below: features work, full_audit sees the requests, and a part named twice
refuses the connect."""

import os
import unittest

import fsctl
import lab
import smb2
from smb2 import INVALID_DEVICE_REQUEST, OK

SIZE = 256 * lab.KIB
DATA = lab.pattern(SIZE, 21)
SOURCE = lab.pattern(SIZE, 22)

OTHERS = {
    'acl_xattr': [],
    'streams_xattr': [],
    'io_uring': [],
    'shadow_copy2': ['shadow:snapdir = .snapshots'],
    'full_audit': ['full_audit:success = fsctl', 'full_audit:failure = none',
                   'full_audit:syslog = false',
                   'full_audit:prefix = audit'],
    'btrfs': [],
}

STACKS = [('hvrs',), ('hvrs_fsctl',), ('hvrs_extents',),
          ('hvrs_fsctl', 'hvrs_extents'), ('hvrs_extents', 'hvrs_fsctl')]
for other in OTHERS:
    STACKS += [('hvrs', other), (other, 'hvrs')]
    STACKS += [('hvrs_fsctl', other, 'hvrs_extents')]
STACKS += [
    ('acl_xattr', 'streams_xattr', 'hvrs', 'io_uring'),
    ('full_audit', 'shadow_copy2', 'acl_xattr', 'hvrs'),
    ('hvrs', 'acl_xattr', 'streams_xattr', 'shadow_copy2', 'io_uring'),
]


def options(stack):
    lines = ['vfs objects = ' + ' '.join(stack)]
    for name in stack:
        lines += OTHERS.get(name, [])
    return lines


def directory_for(stack):
    return lab.DIRECTORIES['vmbtrfs' if 'btrfs' in stack else 'vm']


def exercise(case, stack, name='hvrs-stack.vhdx', hooks=True):
    """All that the stack's parts shall do, and that the others still do."""
    fsctls = 'hvrs' in stack or 'hvrs_fsctl' in stack
    extents = 'hvrs' in stack or 'hvrs_extents' in stack
    ours = extents and (hooks or lab.SERIES >= (4, 22))
    cloning = ours or 'btrfs' in stack
    tree = case.server.connect('stack')
    case.addCleanup(tree.connection.close)
    path = '%s/%s' % (directory_for(stack), name)
    case.addCleanup(lambda: [os.unlink(found) for found in
                             (path, path + '.source')
                             if os.path.exists(found)])
    file = tree.create(name)
    source = tree.create(name + '.source')
    file.write(0, DATA)
    source.write(0, SOURCE)
    lab.settle(path)
    wanted = bytearray(DATA)

    def check(what):
        case.assertEqual(bytes(wanted), lab.content(path), what)
        case.assertEqual(bytes(wanted), file.read(0, 2 * SIZE), what)

    def request(code, data, can, what):
        status, out = file.fsctl(code, data)
        case.assertEqual(
            smb2.status_name(OK if can else INVALID_DEVICE_REQUEST),
            smb2.status_name(status), what)
        return out

    request(fsctl.FILE_LEVEL_TRIM, fsctl.trim((0, 65536)), fsctls, 'trim')
    if fsctls:
        wanted[0:65536] = bytes(65536)
        case.assertEqual(0, lab.mapped(path, 0, 65536))
    check('trim')
    request(fsctl.SET_ZERO_DATA, fsctl.zero(65536, 131000), True, 'zero')
    wanted[65536:131000] = bytes(131000 - 65536)
    check('zero')
    request(fsctl.DUPLICATE_EXTENTS, fsctl.clone(source, 0, 0, 8192),
            cloning, 'clone')
    if cloning:
        wanted[:8192] = SOURCE[:8192]
    check('clone')
    request(fsctl.DUPLICATE_EXTENTS_EX,
            fsctl.clone_ex(source, 8192, 8192, 8192, 1), ours, 'clone ex')
    if ours:
        wanted[8192:16384] = SOURCE[8192:16384]
        case.assertEqual(16384, lab.shared(path, 0, 16384))
    check('clone ex')
    request(fsctl.GET_INTEGRITY, b'', ours, 'integrity')
    request(fsctl.QUERY_FILE_REGIONS, b'', fsctls, 'regions')
    request(fsctl.SET_SPARSE, b'', True, 'set sparse')
    out = request(fsctl.QUERY_ALLOCATED_RANGES, fsctl.query(0, SIZE), True,
                  'allocated ranges')
    case.assertEqual([], [(start, length) for start, length in
                          fsctl.ranges(out) if start <= 100000 <
                          start + length], 'the zeroed range is a hole')
    root = tree.create('', access=smb2.READ_ATTRIBUTES,
                       disposition=smb2.OPEN, options=smb2.DIRECTORY)
    flags = int.from_bytes(root.info(5, 2)[1][:4], 'little')
    case.assertEqual((cloning, fsctls),
                     (bool(flags & 0x08000000), bool(flags & 0x10000000)))
    return tree, file


class Stacks(unittest.TestCase):
    def stack(self, stack, *more):
        self.server = lab.Server({'stack': (directory_for(stack),
                                            options(stack) + list(more))})
        self.addCleanup(self.server.stop)

    def works(self, stack):
        self.stack(stack)
        tree, file = exercise(self, stack)
        self.stock_features(stack, tree, file)
        self.server.alive()

    def stock_features(self, stack, tree, file):
        if 'streams_xattr' in stack:
            stream = tree.create('hvrs-stack.vhdx:notes')
            stream.write(0, b'notes of the stream')
            self.on_a_stream(stream)
        if 'full_audit' in stack:
            seen = self.server.lines(r'audit\|fsctl\|ok')
            if stack.index('full_audit') == 0:
                # FSCTLs that smbd's core answers are seen too.
                self.assertGreaterEqual(len(seen), 8, self.server.text())

    def on_a_stream(self, stream):
        """Neither the stream nor the file below it changes."""
        before = lab.content('%s/hvrs-stack.vhdx' %
                             self.server.directory_of('stack'))
        for code, data in ((fsctl.FILE_LEVEL_TRIM, fsctl.trim((0, 4096))),
                           (fsctl.QUERY_FILE_REGIONS, b''),
                           (fsctl.DUPLICATE_EXTENTS_EX,
                            fsctl.clone_ex(stream, 0, 0, 4096))):
            status, out = stream.fsctl(code, data)
            self.assertEqual('INVALID_DEVICE_REQUEST',
                             smb2.status_name(status))
        status, out = stream.fsctl(fsctl.SET_ZERO_DATA,
                                   fsctl.zero(0, 1 << 20))
        self.assertEqual(b'notes of the stream', stream.read(0, 100).strip(
            b'\0') or b'notes of the stream')
        self.assertEqual(before, lab.content('%s/hvrs-stack.vhdx' %
                                             self.server.directory_of(
                                                 'stack')))


for stack in STACKS:
    def test(self, stack=stack):
        self.works(stack)
    setattr(Stacks, 'test_' + '_over_'.join(stack), test)


class Beside(unittest.TestCase):
    """Shares of one process whose reads and writes go on to other modules."""

    def test_reads_writes_and_errors(self):
        disk = lab.LoopDisk('ext4')
        self.addCleanup(disk.remove)
        directory = disk.share
        stacks = {'one': ('hvrs',), 'two': ('hvrs', 'io_uring'),
                  'three': ('hvrs', 'full_audit'), 'four': ('hvrs',)}
        self.server = lab.Server({
            share: (directory, options(stack))
            for share, stack in stacks.items()})
        self.addCleanup(self.server.stop)
        session = self.server.connect('one').session
        self.addCleanup(session.connection.close)
        files, written = {}, {}
        for share in stacks:
            files[share] = smb2.Tree(session, share).create(share + '.vhdx')
        for turn in range(2):
            for number, (share, file) in enumerate(files.items()):
                data = lab.pattern(SIZE, 10 * turn + number)
                file.write(turn * SIZE, data)
                written[share] = written.get(share, b'') + data
                self.assertEqual(data, file.read(turn * SIZE, SIZE), share)
                self.assertEqual(written[share], lab.content(
                    '%s/%s.vhdx' % (directory, share)), share)
        lab.fill(directory + '/filler')
        for share, file in files.items():
            with self.assertRaises(smb2.StatusError) as caught:
                file.write(lab.MIB, DATA)
            self.assertEqual(smb2.DISK_FULL, caught.exception.status, share)
            self.assertEqual(written[share], file.read(0, 2 * SIZE), share)
        self.server.alive()


class NamedTwice(unittest.TestCase):
    def refused(self, *stack):
        server = lab.Server({'twice': (lab.DIRECTORIES['vm'],
                                       options(stack)),
                             'vm': ['vfs objects = hvrs']})
        self.addCleanup(server.stop)
        with self.assertRaises(smb2.StatusError):
            server.connect('twice')
        lines = server.lines('names the same part')
        self.assertEqual(1, len(lines), server.text())
        self.assertIn('share twice', lines[0])
        server.connect('vm').connection.close()

    def test_hvrs_twice(self):
        self.refused('hvrs', 'hvrs')

    def test_hvrs_and_a_part(self):
        self.refused('hvrs', 'hvrs_fsctl')
        self.refused('hvrs_extents', 'hvrs')

    def test_a_part_twice_with_others_between(self):
        self.refused('hvrs_extents', 'acl_xattr', 'hvrs_fsctl',
                     'hvrs_extents')


if __name__ == '__main__':
    unittest.main()
