#!/usr/bin/env python3
"""The story that "make demo" tells: a disk image made by qemu-img is written
over SMB, cloned, changed, trimmed and zeroed, with what each step does to the
space on disk, and every byte checked after it.  Runs inside the lab."""

import fcntl
import hashlib
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                '..', 'tests', 'integration'))

import smb2  # noqa: E402

MIB = 1 << 20
DIRECTORY = '/srv/xfs/vm'
USER, PASSWORD = 'hvrs', 'hvrs'
PORT = int(os.environ.get('PORT', '1445'))

SET_ZERO_DATA = 0x000980C8
FILE_LEVEL_TRIM = 0x00098208
DUPLICATE_EXTENTS = 0x00098344

# What this share must have, whatever else is still to come.
CLAUSES = ('C0001', 'C0005', 'C0006', 'C0007', 'C0008', 'C0009')

BOLD, GREEN, RED, DIM, OFF = ('\033[1m', '\033[32m', '\033[31m', '\033[2m',
                              '\033[0m') if sys.stdout.isatty() else [''] * 5
failures = []


def heading(words):
    print('\n%s%s%s\n%s' % (BOLD, words, OFF, '-' * len(words)), flush=True)


def tell(words):
    print(words, flush=True)


def check(what, good, seen=''):
    """One thing that must be so."""
    mark = GREEN + 'ok' + OFF if good else RED + 'NOT SO' + OFF
    print('  %s  %s%s' % (mark, what, '' if good or not seen
                          else ' (%s)' % seen), flush=True)
    if not good:
        failures.append(what)


def run(*command):
    return subprocess.run(command, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=120)


def must(*command):
    done = run(*command)
    if done.returncode != 0:
        sys.exit('demo: %s: %s' % (' '.join(command), done.stdout))
    return done.stdout


# ---- space on disk ----------------------------------------------------------

FIEMAP, SHARED, LAST = 0xC020660B, 0x2000, 1
BATCH = 512


def shared_bytes(path):
    """How much of a file shares its blocks with another."""
    total, at = 0, 0
    with open(path, 'rb') as file:
        while True:
            buffer = bytearray(struct.pack('=QQIIII', at, 2**63 - at, 1, 0,
                                           BATCH, 0) + bytes(56 * BATCH))
            fcntl.ioctl(file, FIEMAP, buffer)
            count = struct.unpack_from('=I', buffer, 20)[0]
            flags = LAST
            for index in range(count):
                start, _, length = struct.unpack_from('=QQQ', buffer,
                                                      32 + 56 * index)
                flags = struct.unpack_from('=I', buffer,
                                           32 + 56 * index + 40)[0]
                total += length if flags & SHARED else 0
                at = start + length
            if flags & LAST:
                return total


class Space:
    """Used space of the file system and of each file, in MiB."""

    def __init__(self, names):
        for name in names:
            fd = os.open(os.path.join(DIRECTORY, name), os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
        disk = os.statvfs(DIRECTORY)
        self.used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize / MIB
        self.files = {}
        for name in names:
            path = os.path.join(DIRECTORY, name)
            self.files[name] = (os.stat(path).st_size / MIB,
                                os.stat(path).st_blocks * 512 / MIB,
                                shared_bytes(path) / MIB)


def show_space(before, after):
    tell('')
    tell('  %s%-14s %9s %9s %9s   %s%s' % (DIM, 'MiB', 'size', 'on disk',
                                          'shared', 'before', OFF))
    for name, (size, blocks, shared) in after.files.items():
        old = before.files.get(name)
        was = 'did not exist' if old is None else \
            '%.0f on disk, %.0f shared' % old[1:]
        tell('  %-14s %9.0f %9.0f %9.0f   %s' % (name, size, blocks, shared,
                                                was))
    tell('  %-14s %9s %9.0f %9s   %.0f: %+.0f MiB' % (
        'file system', '', after.used, '', before.used,
        after.used - before.used))
    tell('')


# ---- the image --------------------------------------------------------------

class Image:
    """An ext4 disk with real files as a dynamic VHDX."""

    def __init__(self, directory):
        self.path = os.path.join(directory, 'image.vhdx')
        self.raw = os.path.join(directory, 'image.raw')
        self.files = {}
        tree = os.path.join(directory, 'tree')
        os.mkdir(tree)
        for name, size in (('old-backup.bin', 48), ('database.bin', 32)):
            with open(os.path.join(tree, name), 'wb') as file:
                file.write(os.urandom(size * MIB))
        shutil.copytree(os.path.dirname(os.__file__),
                        os.path.join(tree, 'python'), symlinks=True,
                        ignore=shutil.ignore_patterns('*-packages'))
        os.truncate(os.open(self.raw, os.O_CREAT | os.O_WRONLY), 1 << 30)
        must('mkfs.ext4', '-q', '-b', '4096', '-d', tree, self.raw)
        must('qemu-img', 'convert', '-f', 'raw', '-O', 'vhdx', '-o',
             'subformat=dynamic', self.raw, self.path)
        with open(self.path, 'rb') as file:
            self.content = bytearray(file.read())
        self.block, self.table = block_table(self.content)

    def in_vhdx(self, name):
        """Where a file of the guest lies in the VHDX: ranges of bytes."""
        out = must('debugfs', '-R', 'blocks /' + name, self.raw)
        blocks = [int(word) for word in out.split() if word.isdigit()]
        ranges = []
        for block in blocks:
            at = self.place(block * 4096)
            if ranges and sum(ranges[-1]) == at:
                ranges[-1][1] += 4096
            else:
                ranges.append([at, 4096])
        return ranges

    def place(self, offset):
        block, rest = divmod(offset, self.block)
        # A bitmap's entry follows each 4 GiB of payload (512-byte sectors).
        entry = self.table[block + block // ((512 << 23) // self.block)]
        return (entry & ~0xFFFFF) + rest


def block_table(content):
    """Block size and block allocation table of a VHDX ([MS-VHDX] 2.2.3, 2.5,
    2.6)."""
    def guid(text):
        return uuid.UUID(text).bytes_le

    regions = {bytes(content[at:at + 16]):
               struct.unpack_from('<QI', content, at + 16)
               for at in range(0x30010, 0x30010 + 32 * 2, 32)}
    table, length = regions[guid('2dc27766-f623-4200-9d64-115e9bfd4a08')]
    metadata, _ = regions[guid('8b7ca206-4790-4b9a-b8fe-575f050f886e')]
    items = {bytes(content[at:at + 16]):
             struct.unpack_from('<I', content, at + 16)[0]
             for at in range(metadata + 32, metadata + 32 + 32 * 5, 32)}
    parameters = metadata + items[guid('caa16737-fa36-4d43-b3b6-33f0aa44e76b')]
    return struct.unpack_from('<I', content, parameters)[0], \
        struct.unpack_from('<%dQ' % (length // 8), content, table)


def sound(path, directory):
    """That qemu and e2fsck find nothing wrong with an image."""
    good = run('qemu-img', 'check', '-q', '-f', 'vhdx', path)
    raw = os.path.join(directory, 'check.raw')
    must('qemu-img', 'convert', '-f', 'vhdx', '-O', 'raw', path, raw)
    disk = run('e2fsck', '-fn', raw)
    os.unlink(raw)
    return good.returncode == 0 and disk.returncode == 0, \
        good.stdout + disk.stdout


def digest(data):
    return hashlib.sha256(data).hexdigest()


def same(name, content):
    with open(os.path.join(DIRECTORY, name), 'rb') as file:
        return digest(file.read()) == digest(content)


def blank(content, ranges):
    for offset, length in ranges:
        content[offset:offset + length] = bytes(length)


def near(value, wanted, slack=3):
    return abs(value - wanted) <= slack


# ---- the story --------------------------------------------------------------

def clauses(share):
    """hvrs-check's table; what it found, clause by clause."""
    if shutil.which('hvrs-check') is None:
        return None
    out = run('hvrs-check', '-p', str(PORT), '-U',
              '%s%%%s' % (USER, PASSWORD), '//127.0.0.1/' + share).stdout
    tell(out.rstrip())
    return dict(re.findall(r'^(C\d{4})\s+(\w+)', out, re.MULTILINE))


def show_clauses():
    heading('What a client finds: hvrs-check')
    tell('Share "vm": stock smbd, and this in smb.conf:\n')
    tell(re.sub(r'(?m)^', '    ', section('vm')))
    tell('')
    found = clauses('vm')
    if found is None:
        check('hvrs-check is installed', False)
        return
    tell('')
    for clause in CLAUSES:
        check('%s passes on vm' % clause, found.get(clause) == 'pass',
              found.get(clause))
    tell('\nFor contrast "plain", the same smbd without that line:\n')
    found = clauses('plain')
    tell('')
    check('C0006 does not pass on plain', found.get('C0006') != 'pass')


def section(share):
    """The lines of one share in smb.conf, as they stand there."""
    with open('/etc/samba/smb.conf') as file:
        text = file.read()
    return re.search(r'(?m)^\[%s\]\n(?:\t.*\n?)*' % share,
                     text).group(0).rstrip()


class Story:
    def __init__(self, image, directory):
        self.image = image
        self.directory = directory
        session = smb2.Session(smb2.Connection(PORT), USER, PASSWORD)
        self.tree = smb2.Tree(session, 'vm')
        self.plain = smb2.Tree(session, 'plain')
        self.expected = {}
        self.space = Space([])

    def request(self, file, code, data):
        """An FSCTL that must succeed; tells how long it took."""
        begun = time.monotonic()
        status, _ = file.fsctl(code, data, 4096)
        took = (time.monotonic() - begun) * 1e3
        check('the server says OK, after %.1f ms' % took, status == smb2.OK,
              smb2.status_name(status))

    def settle(self, change, images=True):
        """After a step: space, content, soundness."""
        before = self.space
        self.space = Space(list(self.expected))
        show_space(before, self.space)
        grew = self.space.used - before.used
        check('the file system holds %s' % (
            'as much as before' if change == 0 else '%d MiB %s' % (
                abs(change), 'more' if change > 0 else 'less')),
            near(grew, change), '%+.1f MiB' % grew)
        for name, content in self.expected.items():
            check('every byte of %s is as it should be' % name,
                  same(name, content))
        if images:
            for name in self.expected:
                good, why = sound(os.path.join(DIRECTORY, name),
                                  self.directory)
                check('qemu-img check and e2fsck find %s sound' % name, good,
                      why)

    def create(self):
        content = self.image.content
        heading('Created: golden.vhdx, written over SMB')
        tell('A dynamic VHDX of 1 GiB by qemu-img, with an ext4 file system '
             'in it.')
        self.golden = self.tree.create('golden.vhdx')
        self.golden.set_size(len(content))
        begun = time.monotonic()
        self.golden.write(0, bytes(content))
        self.golden.flush()
        check('%d MiB written and flushed in %.1f s' % (
            len(content) / MIB, time.monotonic() - begun), True)
        self.expected['golden.vhdx'] = bytearray(content)
        self.settle(len(content) // MIB)

    def clone(self):
        size = len(self.image.content)
        heading('Cloned: a second disk that shares every block')
        self.second = self.tree.create('clone.vhdx')
        self.second.set_size(size)
        self.request(self.second, DUPLICATE_EXTENTS,
                     self.golden.id + struct.pack('<QQQ', 0, 0, size))
        self.expected['clone.vhdx'] = bytearray(self.image.content)
        self.settle(0)
        check('all of clone.vhdx is shared',
              near(self.space.files['clone.vhdx'][2], size / MIB))
        tell('  ' + must('qemu-img', 'compare',
                         os.path.join(DIRECTORY, 'golden.vhdx'),
                         os.path.join(DIRECTORY, 'clone.vhdx')).strip())

    def write(self):
        heading('Written: the clone\'s guest rewrites its 32 MiB '
                'database.bin')
        self.database = self.image.in_vhdx('database.bin')
        for offset, length in self.database:
            data = os.urandom(length)
            self.second.write(offset, data)
            self.expected['clone.vhdx'][offset:offset + length] = data
        self.second.flush()
        check('32 MiB written', True)
        self.settle(32)

    def trim(self):
        heading('Trimmed: the clone\'s guest deletes its 48 MiB '
                'old-backup.bin')
        tell('Only the clone gives it up; golden.vhdx still holds the '
             'blocks.')
        ranges = self.image.in_vhdx('old-backup.bin')
        request = struct.pack('<II', 0, len(ranges)) + b''.join(
            struct.pack('<QQ', *part) for part in ranges)
        self.request(self.second, FILE_LEVEL_TRIM, request)
        blank(self.expected['clone.vhdx'], ranges)
        on_disk = self.space.files['clone.vhdx'][1]
        self.settle(0)
        check('clone.vhdx holds 48 MiB less', near(
            self.space.files['clone.vhdx'][1], on_disk - 48))
        heading('Trimmed again: the same in golden.vhdx')
        self.request(self.golden, FILE_LEVEL_TRIM, request)
        blank(self.expected['golden.vhdx'], ranges)
        self.settle(-48)

    def zero(self):
        heading('Zeroed: the clone\'s guest wipes database.bin')
        for offset, length in self.database:
            self.request(self.second, SET_ZERO_DATA,
                         struct.pack('<QQ', offset, offset + length))
        blank(self.expected['clone.vhdx'], self.database)
        self.settle(-32)

    def contrast(self):
        heading('And without hvrs')
        tell('The same requests on the share "plain" of the same server:')
        one = self.plain.create('one.vhdx', disposition=smb2.OVERWRITE_IF)
        two = self.plain.create('two.vhdx', disposition=smb2.OVERWRITE_IF)
        one.write(0, bytes(MIB))
        two.set_size(MIB)
        for what, file, code, data in (
                ('clone', two, DUPLICATE_EXTENTS,
                 one.id + struct.pack('<QQQ', 0, 0, MIB)),
                ('trim', one, FILE_LEVEL_TRIM,
                 struct.pack('<IIQQ', 0, 1, 0, MIB))):
            status, _ = file.fsctl(code, data, 4096)
            check('%s is refused: %s' % (what, smb2.status_name(status)),
                  status != smb2.OK)


def main():
    show_clauses()
    with tempfile.TemporaryDirectory(prefix='hvrs-demo-') as directory:
        image = Image(directory)
        story = Story(image, directory)
        story.create()
        story.clone()
        story.write()
        story.trim()
        story.zero()
        story.contrast()
    heading('All as it should be' if not failures else 'Not as it should be')
    for what in failures:
        tell('  %s' % what)
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
