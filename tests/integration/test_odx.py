"""Offload data transfer: every rule of [MS-FSA] 2.1.5.10.18 and 2.1.5.10.19,
and what a token is worth: a point in time, to its user, for its time."""

import glob
import json
import mmap
import os
import random
import signal
import tempfile
import threading
import time
import unittest

import fsctl
import lab
import odx
import smb2
from fsctl import TOP
from lab import KIB, MIB
from odx import (INVALID_TOKEN, OFFLOAD_READ, OFFLOAD_WRITE, ZERO, read,
                 write)
from smb2 import (ACCESS_DENIED, BUFFER_TOO_SMALL, END_OF_FILE, FILE_CLOSED,
                  FILE_LOCK_CONFLICT, INVALID_PARAMETER,
                  MEDIA_WRITE_PROTECTED, OK)

SIZE = len(fsctl.Case.DATA)
SECTORS = (SIZE + 511) // 512 * 512

REFUSED_READ = [
    ('nothing_sent', 'rw', b'', BUFFER_TOO_SMALL),
    ('one_byte_short', 'rw', read(0, 4096)[:31], BUFFER_TOO_SMALL),
    ('wrong_size', 'rw', read(0, 4096, size=31), INVALID_PARAMETER),
    ('offset_within_a_sector', 'rw', read(1, 4096), INVALID_PARAMETER),
    ('length_within_a_sector', 'rw', read(0, 4097), INVALID_PARAMETER),
    ('offset_negative', 'rw', read(-512, 512), INVALID_PARAMETER),
    ('wrapping', 'rw', read(2**63 - 512, 1024), INVALID_PARAMETER),
    ('directory', 'directory', read(0, 4096), odx.READ_FILE_NOT_SUPPORTED),
    ('open_for_attributes', 'attributes', read(0, 4096), ACCESS_DENIED),
    ('open_for_appending', 'append', read(0, 4096), ACCESS_DENIED),
    ('at_the_end', 'rw', read(SECTORS, 512), END_OF_FILE),
    ('far_beyond_the_end', 'rw', read(1 << 50, 512), END_OF_FILE),
    ('lock_of_another_open', 'locked', read(0, 8192), FILE_LOCK_CONFLICT),
    ('closed_handle', 'closed', read(0, 4096), FILE_CLOSED),
    ('handle_of_another_session', 'stranger', read(0, 4096), FILE_CLOSED),
]

REFUSED_WRITE = [
    ('nothing_sent', 'rw', b'', BUFFER_TOO_SMALL),
    ('one_byte_short', 'rw', write(0, 4096, ZERO)[:543], BUFFER_TOO_SMALL),
    ('wrong_size', 'rw', write(0, 4096, ZERO, size=543), INVALID_PARAMETER),
    ('offset_within_a_sector', 'rw', write(1, 4096, ZERO),
     INVALID_PARAMETER),
    ('length_within_a_sector', 'rw', write(0, 4097, ZERO),
     INVALID_PARAMETER),
    ('token_offset_within_a_sector', 'rw', write(0, 4096, ZERO, start=1),
     INVALID_PARAMETER),
    ('offset_negative', 'rw', write(-512, 512, ZERO), INVALID_PARAMETER),
    ('wrapping', 'rw', write(2**63 - 512, 1024, ZERO), INVALID_PARAMETER),
    ('token_offset_wrapping', 'rw', write(0, 1024, ZERO, start=2**63 - 512),
     INVALID_PARAMETER),
    ('directory', 'directory', write(0, 4096, ZERO),
     odx.WRITE_FILE_NOT_SUPPORTED),
    ('read_only_share', 'readonly', write(0, 4096, ZERO),
     MEDIA_WRITE_PROTECTED),
    ('open_for_reading', 'read', write(0, 4096, ZERO), ACCESS_DENIED),
    ('open_for_attributes', 'attributes', write(0, 4096, ZERO),
     ACCESS_DENIED),
    ('lock_of_another_open', 'locked', write(0, 8192, ZERO),
     FILE_LOCK_CONFLICT),
    ('beyond_the_end', 'rw', write(SECTORS + 512, 512, ZERO), END_OF_FILE),
    ('unknown_token', 'rw', write(0, 4096, b'HVRS' + bytes(508)),
     INVALID_TOKEN),
    ('token_of_zeros', 'rw', write(0, 4096, bytes(512)), INVALID_TOKEN),
    ('reserved_token', 'rw', write(0, 4096, b'\xff\xff\x00\x02' + bytes(508)),
     INVALID_TOKEN),
    ('closed_handle', 'closed', write(0, 4096, ZERO), FILE_CLOSED),
]


@lab.on_shares(*fsctl.ON_DISK)
@fsctl.refused(REFUSED_READ)
class Read(fsctl.Case):
    code = OFFLOAD_READ
    max_out = 528

    def test_no_room_for_the_answer(self):
        self.make(data=self.DATA)
        self.expect_fsctl(BUFFER_TOO_SMALL, self.open(), OFFLOAD_READ,
                          read(0, 4096), 527)

    def test_nothing_asked_for(self):
        self.make(data=self.DATA)
        self.assertEqual((0, 0, ZERO), odx.get(self.open(), 0, 0))

    def test_clipped_to_the_last_sector(self):
        self.make(data=self.DATA)
        file = self.open()
        self.assertEqual(SECTORS, odx.get(file, 0, 1 << 40)[0])
        self.assertEqual(512, odx.get(file, SECTORS - 512, 1 << 20)[0])

    def test_file_smaller_than_a_sector(self):
        self.make(data=b'x' * 511)
        self.expect_fsctl(INVALID_PARAMETER, self.open(), OFFLOAD_READ,
                          read(0, 512), 528)

    def test_deleted_behind_the_server(self):
        path = self.make(data=self.DATA)
        file = self.open()
        os.unlink(path)
        self.expect_fsctl(smb2.FILE_DELETED, file, OFFLOAD_READ,
                          read(0, 4096), 528)

    def test_holes_are_zero_tokens(self):
        self.make(size=MIB)
        with open(self.path('disk.vhdx'), 'r+b') as out:
            out.seek(256 * KIB)
            out.write(b'x' * 4096)
        file = self.open()
        moved, flags, token = odx.get(file, 0, MIB)
        self.assertEqual((256 * KIB, 0, ZERO), (moved, flags, token))
        moved, flags, token = odx.get(file, 512 * KIB, MIB)
        self.assertEqual((512 * KIB, 1, ZERO), (moved, flags, token))


@lab.on_shares(*fsctl.ON_DISK)
@fsctl.refused(REFUSED_WRITE)
class Write(fsctl.Case):
    code = OFFLOAD_WRITE
    max_out = 16

    def test_no_room_for_the_answer(self):
        self.make(data=self.DATA)
        self.expect_fsctl(BUFFER_TOO_SMALL, self.open(), OFFLOAD_WRITE,
                          write(0, 4096, ZERO), 15)

    def test_deleted_behind_the_server(self):
        path = self.make(data=self.DATA)
        file = self.open()
        os.unlink(path)
        self.expect_fsctl(smb2.FILE_DELETED, file, OFFLOAD_WRITE,
                          write(0, 4096, ZERO), 16)

    def test_file_smaller_than_a_sector(self):
        path = self.make(data=b'x' * 511)
        self.expect_fsctl(INVALID_PARAMETER, self.open(), OFFLOAD_WRITE,
                          write(0, 512, ZERO), 16)
        self.assert_bytes(b'x' * 511, lab.content(path))

    def test_write_time_moves(self):
        path = self.make(data=self.DATA)
        os.utime(path, (1e9, 1e9))
        file = self.open()
        odx.put(file, 0, 4096, ZERO)
        file.close()
        self.assertGreater(os.stat(path).st_mtime, 1e9 + 1)

    def test_others_lose_their_oplock(self):
        """What a client has cached of the target is no longer true."""
        self.make(data=self.DATA)
        other = self.connect()
        other.create('t/disk.vhdx', oplock=1)
        odx.put(self.open(), 0, 4096, ZERO)
        self.assertEqual(smb2.OPLOCK_BREAK,
                         other.connection.receive().command)

    def test_a_terabyte_of_zeros(self):
        path = self.make(data=self.DATA, size=lab.TIB)
        file = self.open()
        begun = time.monotonic()
        odx.put(file, 4096, lab.TIB - 4096, ZERO)
        self.assertLess(time.monotonic() - begun, 3)
        self.assert_bytes(self.DATA[:4096] + bytes(4096),
                          lab.content(path, 0, 8192))

    def test_nothing_asked_for(self):
        path = self.make(data=self.DATA)
        self.assertEqual(0, odx.put_once(self.open(), 0, 0, bytes(512)))
        self.assert_bytes(self.DATA, lab.content(path))


@lab.on_shares(*fsctl.ON_DISK)
class Content(lab.Case):
    shares = dict(fsctl.SHARES, plainly=(lab.DIRECTORIES['vm'], []))

    def settle(self):
        """What a file system without clones needs to tell changes apart."""
        time.sleep(0.02)

    def pair(self, data, size=None):
        self.make('from.vhdx', data)
        self.make('to.vhdx', lab.pattern(size or len(data), 99))
        return self.open('from.vhdx'), self.open('to.vhdx')

    def test_a_whole_file(self):
        for length in (512, 4096, 64 * KIB, 5 * MIB, 5 * MIB + 12345):
            data = lab.pattern(length, 1)
            source, target = self.pair(data)
            odx.copy(source, target, 0, 0, (length + 511) // 512 * 512)
            self.assert_bytes(data, lab.content(self.path('to.vhdx')))
            source.close()
            target.close()

    def test_parts_at_any_sector(self):
        data = lab.pattern(3 * MIB, 1)
        source, target = self.pair(data)
        wanted = bytearray(lab.content(self.path('to.vhdx')))
        for offset, to, length in (
                (0, 4096, 4096), (512, 8192, 1536), (65536, 131072, MIB),
                (1024, 2048, 3 * 512), (MIB + 512, 512, 700 * 512)):
            odx.copy(source, target, offset, to, length)
            wanted[to:to + length] = data[offset:offset + length]
            self.assert_bytes(bytes(wanted), target.read(0, 3 * MIB))

    def test_offset_into_the_token(self):
        data = lab.pattern(MIB, 1)
        source, target = self.pair(data)
        moved, _, token = odx.get(source, 64 * KIB, 256 * KIB)
        self.assertEqual(256 * KIB, moved)
        odx.put(target, 0, 128 * KIB, token, 96 * KIB)
        self.assert_bytes(data[160 * KIB:288 * KIB],
                          target.read(0, 128 * KIB))
        # More than the token has is clipped; from its end there is nothing.
        self.assertEqual(4096, odx.put_once(target, 0, 8192, token,
                                            252 * KIB))
        with self.assertRaises(smb2.StatusError) as caught:
            odx.put_once(target, 0, 4096, token, 256 * KIB)
        self.expect(INVALID_TOKEN, caught.exception.status)

    def changed(self, change, dies):
        """A token given before a change of the source is of before, or it
        is refused; never of after."""
        old = lab.pattern(MIB, 1)
        source, target = self.pair(old)
        before = lab.content(self.path('to.vhdx'))
        _, _, token = odx.get(source, 0, MIB)
        change(source)
        if dies:
            with self.assertRaises(smb2.StatusError) as caught:
                odx.put(target, 0, MIB, token)
            self.expect(INVALID_TOKEN, caught.exception.status)
            self.assert_bytes(before, target.read(0, MIB))
        else:
            odx.put(target, 0, MIB, token)
            self.assert_bytes(old, target.read(0, MIB))
        source.close()
        target.close()

    def test_source_changes(self):
        dies = self.share == 'vmext4'
        new = lab.pattern(4096, 7)

        def behind_the_server(source):
            lab.put(self.path('from.vhdx'), 8192, new)

        def by_a_mapping(source):
            with open(self.path('from.vhdx'), 'r+b') as file:
                with mmap.mmap(file.fileno(), 0) as view:
                    view[5000] = view[5000] ^ 1
                    view.flush()

        for change in (lambda source: source.write(8192, new),
                       lambda source: source.set_size(512),
                       lambda source: source.fsctl(
                           fsctl.SET_ZERO_DATA, fsctl.zero(0, 65536)),
                       behind_the_server, by_a_mapping,
                       lambda source: lab.put(self.path('from.vhdx'), 0,
                                              b'x')):
            self.changed(change, dies)

    def test_a_page_that_was_dirty_before(self):
        """A store that the kernel would not notice, were it not for us."""
        source, target = self.pair(lab.pattern(64 * KIB, 1))
        blank = target.read(0, 3)
        with open(self.path('from.vhdx'), 'r+b') as file:
            with mmap.mmap(file.fileno(), 4096) as page:
                page[0:3] = b'old'
                _, _, token = odx.get(source, 0, 4096)
                page[0:3] = b'new'
                status, _ = target.fsctl(OFFLOAD_WRITE,
                                         write(0, 4096, token), 16)
        got = target.read(0, 3)
        if self.share == 'vmext4':
            self.expect(INVALID_TOKEN, status)
            self.assertEqual(blank, got)
        else:
            self.expect(OK, status)
            self.assertEqual(b'old', got)

    def test_changed_at_once(self):
        """The change comes in the same tick of the clock as the token."""
        for _ in range(50):
            self.changed(lambda source: source.write(0, b'y' * 512),
                         self.share == 'vmext4')

    def test_a_second_token_of_another_generation(self):
        old, new = lab.pattern(256 * KIB, 1), lab.pattern(256 * KIB, 2)
        source, target = self.pair(old)
        for data in (old, new, old, new):
            source.write(0, data)
            _, _, token = odx.get(source, 0, len(data))
            odx.put(target, 0, len(data), token)
            self.assert_bytes(data, target.read(0, len(data)))

    def test_from_another_connection_and_share(self):
        data = lab.pattern(MIB, 1)
        source, _ = self.pair(data)
        _, _, token = odx.get(source, 0, MIB)
        source.close()
        other = self.connect()
        target = other.create('t/to.vhdx')
        odx.put(target, 0, MIB, token)
        self.assert_bytes(data, target.read(0, MIB))
        target.close()

    def test_between_file_systems(self):
        data = lab.pattern(3 * MIB, 1)
        source, _ = self.pair(data)
        for share in fsctl.ON_DISK:
            if share == self.share:
                continue
            path = lab.DIRECTORIES[share] + '/odx-other.vhdx'
            self.addCleanup(lambda path=path: os.path.exists(path) and
                            os.unlink(path))
            target = self.connect(share).create('odx-other.vhdx')
            target.set_size(3 * MIB)
            odx.copy(source, target, 0, 0, 3 * MIB)
            self.assert_bytes(data, target.read(0, 3 * MIB))
            target.close()

    def test_holes_stay_holes(self):
        self.make('from.vhdx', size=64 * MIB)
        for at in (0, 10 * MIB, 63 * MIB):
            lab.put(self.path('from.vhdx'), at, lab.pattern(65536, at + 1))
        self.make('to.vhdx', lab.pattern(64 * MIB, 5))
        source, target = self.open('from.vhdx'), self.open('to.vhdx')
        odx.copy(source, target, 0, 0, 64 * MIB)
        target.flush()
        self.assert_bytes(lab.content(self.path('from.vhdx')),
                          lab.content(self.path('to.vhdx')))
        lab.settle(self.path('to.vhdx'))
        self.assertLess(lab.blocks(self.path('to.vhdx')), MIB)

    def test_blocks_are_shared(self):
        data = lab.pattern(4 * MIB, 1)
        source, target = self.pair(data)
        odx.copy(source, target, 0, 0, 4 * MIB)
        target.flush()
        lab.settle(self.path('to.vhdx'))
        shared = lab.shared(self.path('to.vhdx'), 0, 4 * MIB)
        self.assertEqual(0 if self.share == 'vmext4' else 4 * MIB, shared)

    def test_the_zero_token(self):
        self.make('to.vhdx', lab.pattern(4 * MIB, 1))
        target = self.open('to.vhdx')
        odx.put(target, MIB + 512, 2 * MIB, ZERO)
        wanted = bytearray(lab.pattern(4 * MIB, 1))
        wanted[MIB + 512:3 * MIB + 512] = bytes(2 * MIB)
        self.assert_bytes(bytes(wanted), target.read(0, 4 * MIB))
        self.assertEqual(4 * MIB, os.path.getsize(self.path('to.vhdx')))

    def test_onto_itself(self):
        data = lab.pattern(4 * MIB, 1)
        for offset, to in ((0, 2 * MIB), (0, 512 * KIB), (512 * KIB, 0)):
            path = self.make('self.vhdx', data)
            file = self.open('self.vhdx')
            _, _, token = odx.get(file, offset, MIB)
            done = odx.put_once(file, to, MIB, token)
            wanted = bytearray(data)
            wanted[to:to + done] = data[offset:offset + done]
            self.assertEqual(MIB, done)
            self.assert_bytes(bytes(wanted), lab.content(path))
            file.close()

    def test_the_last_incomplete_sector(self):
        data = lab.pattern(10000, 1)
        source, target = self.pair(data, size=9000)
        moved, _, token = odx.get(source, 0, 1 << 20)
        self.assertEqual(10240, moved)
        # The target ends at 9000: its last sector counts whole.
        self.assertEqual(9216, odx.put_once(target, 0, 10240, token))
        self.assert_bytes(data[:9000], target.read(0, 20000))
        self.assertEqual(9000, os.path.getsize(self.path('to.vhdx')))

    def test_a_target_that_grows(self):
        data = lab.pattern(100 * KIB, 1)
        source, _ = self.pair(data)
        target = self.open('new.vhdx')
        _, _, token = odx.get(source, 0, 100 * KIB)
        odx.put(target, 0, 100 * KIB, token)
        self.assert_bytes(data, target.read(0, MIB))

    def test_a_forged_or_altered_token(self):
        data = lab.pattern(64 * KIB, 1)
        source, target = self.pair(data)
        before = lab.content(self.path('to.vhdx'))
        _, _, token = odx.get(source, 0, 64 * KIB)
        for at in list(range(0, 64)) + [100, 300, 511]:
            altered = bytearray(token)
            altered[at] ^= 1
            status, _ = target.fsctl(OFFLOAD_WRITE,
                                     write(0, 4096, bytes(altered)), 16)
            self.expect(INVALID_TOKEN, status)
        self.assert_bytes(before, target.read(0, len(before)))

    def test_time_to_live(self):
        data = lab.pattern(64 * KIB, 1)
        source, target = self.pair(data)
        _, _, token = odx.get(source, 0, 64 * KIB, lifetime=300)
        odx.put(target, 0, 64 * KIB, token)
        time.sleep(0.4)
        status, _ = target.fsctl(OFFLOAD_WRITE, write(0, 4096, token), 16)
        self.expect(INVALID_TOKEN, status)

    def test_copychunk_goes_on_beside_it(self):
        data = lab.pattern(64 * KIB, 1)
        source, target = self.pair(data)
        status, key = source.fsctl(0x00140078, b'', 32)
        self.expect(OK, status)
        import struct
        chunk = key[:24] + struct.pack('<II', 1, 0) + struct.pack(
            '<QQII', 0, 0, 64 * KIB, 0)
        status, _ = target.fsctl(0x001480F2, chunk, 12)
        self.expect(OK, status)
        self.assert_bytes(data, target.read(0, 64 * KIB))


class Users(lab.Case):
    shares = dict(fsctl.SHARES, bearer=(lab.DIRECTORIES['vm'],
                                        ['vfs objects = hvrs',
                                         'hvrs:offload token scope = bearer']),
                  strict=(lab.DIRECTORIES['vm'],
                          ['vfs objects = hvrs', 'hvrs:offload extends = no']),
                  few=(lab.DIRECTORIES['vm'],
                       ['vfs objects = hvrs',
                        'hvrs:offload tokens per user = 3']),
                  off=(lab.DIRECTORIES['vm'],
                       ['vfs objects = hvrs', 'hvrs:offload = no']))

    def token(self, share='vm', user='hvrs'):
        self.make('from.vhdx', lab.pattern(64 * KIB, 1))
        self.source = self.open('from.vhdx', tree=self.connect(share, user))
        return odx.get(self.source, 0, 64 * KIB)[2]

    def put_as(self, user, token):
        self.make('to.vhdx', bytes(64 * KIB))
        os.chmod(self.path('to.vhdx'), 0o666)
        target = self.open('to.vhdx', tree=self.connect('vm', user))
        return target.fsctl(OFFLOAD_WRITE, write(0, 4096, token), 16)[0]

    def test_a_token_is_its_users(self):
        token = self.token()
        self.expect(INVALID_TOKEN, self.put_as('hvrsadmin', token))
        self.expect(OK, self.put_as('hvrs', token))

    def test_a_bearer_token_is_anybodys(self):
        token = self.token('bearer')
        self.expect(OK, self.put_as('hvrsadmin', token))

    def test_the_oldest_goes_for_one_more(self):
        self.make('from.vhdx', lab.pattern(64 * KIB, 1))
        source = self.open('from.vhdx', tree=self.connect('few'))
        tokens = []
        for _ in range(5):
            tokens.append(odx.get(source, 0, 64 * KIB)[2])
            time.sleep(0.005)
        self.assertEqual(
            [INVALID_TOKEN, INVALID_TOKEN, OK, OK, OK],
            [self.put_as('hvrs', token) for token in tokens])

    def test_strictly_nothing_grows(self):
        token = self.token('strict')
        target = self.open('empty.vhdx', tree=self.connect('strict'))
        self.expect_fsctl(END_OF_FILE, target, OFFLOAD_WRITE,
                          write(0, 4096, token), 16)

    def test_off_is_as_if_it_were_not_there(self):
        self.make('from.vhdx', lab.pattern(64 * KIB, 1))
        file = self.open('from.vhdx', tree=self.connect('off'))
        self.expect_fsctl(smb2.INVALID_DEVICE_REQUEST, file, OFFLOAD_READ,
                          read(0, 4096), 528)
        self.expect_fsctl(smb2.INVALID_DEVICE_REQUEST, file, OFFLOAD_WRITE,
                          write(0, 4096, ZERO), 16)

    def test_hvrsctl_lists_them(self):
        self.token()
        out = lab.run('env', 'SMB_CONF_PATH=' + self.server.config,
                      'hvrsctl', 'tokens', '--json')
        self.assertIn('t/from.vhdx', out)
        out = lab.run('env', 'SMB_CONF_PATH=' + self.server.config,
                      'hvrsctl', 'tokens')
        self.assertIn('64 KiB', out)


def pins(server):
    """How many unnamed files the processes of a server hold open."""
    found = set()
    for pid in server.children():
        for path in glob.glob('/proc/%d/fd/*' % pid):
            try:
                if '(deleted)' in os.readlink(path) and \
                        '/srv/' in os.readlink(path):
                    found.add(os.stat(path).st_ino)
            except FileNotFoundError:
                pass
    return len(found)


@lab.on_shares('vm', 'vmbtrfs')
class Pinned(lab.Case):
    """What a read clones, where the file system can."""

    def source(self, size=8 * MIB):
        self.make('from.vhdx')
        for at in range(0, size, MIB):
            lab.put(self.path('from.vhdx'), at, lab.pattern(MIB, at + 1))
            lab.settle(self.path('from.vhdx'))
        time.sleep(0.02)
        return self.open('from.vhdx')

    def shared(self, offset, length):
        return lab.shared(self.path('from.vhdx'), offset, length)

    def test_the_range_alone_is_cloned(self):
        source = self.source()
        self.assertEqual(0, self.shared(0, 8 * MIB))
        odx.get(source, 3 * MIB, MIB)
        self.assertEqual(MIB, self.shared(3 * MIB, MIB))
        self.assertEqual(MIB, self.shared(0, 8 * MIB))
        odx.get(source, 6 * MIB + 512, 512)
        self.assertGreater(self.shared(6 * MIB, MIB), 0)
        self.assertEqual(0, self.shared(0, 3 * MIB))

    def test_one_clone_serves_a_generation(self):
        source = self.source()
        before = pins(self.server)
        tokens = [odx.get(source, at, 512 * KIB, lifetime=2000)[2]
                  for at in (0, 512, 4 * MIB)]
        self.assertEqual(before + 3, pins(self.server))
        whole = odx.get(source, 0, 8 * MIB, lifetime=2000)[2]
        for at in (0, MIB, 7 * MIB):
            tokens.append(odx.get(source, at, MIB, lifetime=2000)[2])
        self.assertEqual(before + 4, pins(self.server))
        source.write(0, b'x')
        odx.get(source, 0, MIB, lifetime=2000)
        self.assertEqual(before + 5, pins(self.server))
        self.make('to.vhdx', bytes(MIB))
        target = self.open('to.vhdx')
        odx.put(target, 0, MIB, whole)
        self.assert_bytes(lab.pattern(MIB, 1), target.read(0, MIB))
        for _ in range(100):
            if pins(self.server) == before:
                break
            time.sleep(0.1)
        self.assertEqual(before, pins(self.server))

    def test_zeros_behind_a_range(self):
        self.make('from.vhdx', lab.pattern(64 * KIB, 1), size=MIB)
        source = self.open('from.vhdx')
        for offset, length, wanted in (
                (0, 64 * KIB, (64 * KIB, 1)), (0, 32 * KIB, (32 * KIB, 0)),
                (32 * KIB, 96 * KIB, (96 * KIB, 1)), (0, TOP // 512 * 512,
                                                      (MIB, 1))):
            self.assertEqual(wanted, odx.get(source, offset, length)[:2])
        lab.put(self.path('from.vhdx'), 512 * KIB, b'x')
        for offset, length, wanted in (
                (0, 64 * KIB, (64 * KIB, 0)), (0, MIB, (MIB, 1)),
                (0, 512 * KIB, (512 * KIB, 0)),
                (128 * KIB, MIB, (384 * KIB, 0))):
            self.assertEqual(wanted, odx.get(source, offset, length)[:2])


@lab.on_shares('vm', 'vmbtrfs')
class Leased(lab.Case):
    """A source that nobody has open for writing is cloned when somebody
    opens it so."""
    shares = fsctl.SHARES
    OLD, NEW = lab.pattern(8 * MIB, 1), lab.pattern(8 * MIB, 2)

    def setUp(self):
        super().setUp()
        self.make('from.vhdx', self.OLD)
        lab.settle(self.path('from.vhdx'))
        self.make('to.vhdx', lab.pattern(8 * MIB, 3))
        self.source = self.reader()
        self.target = self.open('to.vhdx')

    def reader(self, tree=None):
        return self.open('from.vhdx', tree=tree, access=smb2.READ_ONLY,
                         disposition=smb2.OPEN)

    def shared(self, name='from.vhdx'):
        lab.settle(self.path(name))
        return lab.shared(self.path(name), 0, 8 * MIB)

    def is_of_before(self, token, size=8 * MIB, start=0):
        odx.put(self.target, 0, size, token, start)
        self.assert_bytes(self.OLD[start:start + size],
                          self.target.read(0, size))

    def test_nothing_is_cloned_before_it_must_be(self):
        token = odx.get(self.source, 0, 8 * MIB)[2]
        self.assertEqual(0, self.shared())
        self.is_of_before(token)
        self.assertEqual(8 * MIB, self.shared('to.vhdx'))

    def test_an_open_for_writing(self):
        token = odx.get(self.source, 512, 4 * MIB)[2]
        part = odx.get(self.source, 6 * MIB, MIB)[2]
        for tree in (self.tree, self.connect()):
            with self.subTest():
                file = self.open('from.vhdx', tree=tree)
                file.write(0, self.NEW)
                odx.put(self.target, 0, 4 * MIB, token)
                odx.put(self.target, 6 * MIB, MIB, part)
                self.assert_bytes(self.OLD[512:512 + 4 * MIB],
                                  self.target.read(0, 4 * MIB))
                self.assert_bytes(self.OLD[6 * MIB:7 * MIB],
                                  self.target.read(6 * MIB, MIB))
                file.close()

    def test_a_program_of_the_server(self):
        path = self.path('from.vhdx')

        def written():
            lab.put(path, 0, self.NEW)

        def mapped():
            with open(path, 'r+b') as file:
                with mmap.mmap(file.fileno(), 0) as view:
                    view[0:8 * MIB] = self.NEW

        for change in (written, mapped, lambda: os.truncate(path, 512),
                       lambda: open(path, 'wb').close(),
                       lambda: os.unlink(path)):
            token = odx.get(self.source, 0, 8 * MIB)[2]
            change()
            self.is_of_before(token)
            self.source.close()
            self.make('from.vhdx', self.OLD)
            self.source = self.reader()

    def test_truncated_without_being_open_for_writing(self):
        """The one change that the kernel makes nobody wait for."""
        token = odx.get(self.source, 0, 8 * MIB)[2]
        before = self.target.read(0, 8 * MIB)
        os.close(os.open(self.path('from.vhdx'), os.O_RDONLY | os.O_TRUNC))
        status, _ = self.target.fsctl(OFFLOAD_WRITE,
                                      write(0, 8 * MIB, token), 16)
        self.expect(INVALID_TOKEN, status)
        self.assert_bytes(before, self.target.read(0, 8 * MIB))

    def test_a_new_generation_is_another_file(self):
        tokens = []
        for data in (self.OLD, self.NEW, self.OLD, self.NEW):
            lab.put(self.path('from.vhdx'), 0, data)
            tokens.append((data, odx.get(self.source, 0, 8 * MIB)[2]))
        for data, token in tokens:
            odx.put(self.target, 0, 8 * MIB, token)
            self.assert_bytes(data, self.target.read(0, 8 * MIB))

    def test_its_attributes_may_change(self):
        token = odx.get(self.source, 0, 8 * MIB)[2]
        os.chmod(self.path('from.vhdx'), 0o640)
        os.utime(self.path('from.vhdx'), (1, 1))
        self.is_of_before(token)
        self.assertEqual(8 * MIB, self.shared('to.vhdx'))

    def test_after_the_source_is_closed(self):
        token = odx.get(self.source, 0, 8 * MIB)[2]
        self.source.close()
        lab.put(self.path('from.vhdx'), 0, self.NEW)
        self.is_of_before(token)

    def test_from_another_connection(self):
        """Whose copy has a lease of its own."""
        token = odx.get(self.source, 0, 8 * MIB)[2]
        target = self.open('to.vhdx', tree=self.connect())
        for start in (0, 512):
            odx.put(target, 0, 4 * MIB, token, start)
            self.assert_bytes(self.OLD[start:start + 4 * MIB],
                              self.target.read(0, 4 * MIB))
        lab.put(self.path('from.vhdx'), 0, self.NEW)
        odx.put(target, 0, 8 * MIB, token)
        self.assert_bytes(self.OLD, self.target.read(0, 8 * MIB))

    def test_nobody_waits_for_what_is_over(self):
        token = odx.get(self.source, 0, 8 * MIB, lifetime=200)[2]
        self.is_of_before(token)
        time.sleep(0.4)
        begun = time.monotonic()
        lab.put(self.path('from.vhdx'), 0, self.NEW)
        self.assertLess(time.monotonic() - begun, 2)
        status, _ = self.target.fsctl(OFFLOAD_WRITE,
                                      write(0, 4096, token), 16)
        self.expect(INVALID_TOKEN, status)

    def test_an_open_for_writing_takes_no_second(self):
        odx.get(self.source, 0, 8 * MIB)
        begun = time.monotonic()
        self.open('from.vhdx', tree=self.connect()).close()
        self.assertLess(time.monotonic() - begun, 0.8)

    def test_writers_and_copies_at_once(self):
        """A copy is of before or of after its token, never of both."""
        trees = [self.connect() for _ in range(2)]
        for round in range(12):
            data = self.NEW if round % 2 else self.OLD
            lab.put(self.path('from.vhdx'), 0, data)
            token = odx.get(self.source, 0, 8 * MIB)[2]
            writer = threading.Timer(
                0.0005 * round, lab.put,
                (self.path('from.vhdx'), 0, lab.pattern(8 * MIB, round + 9)))
            writer.start()
            target = self.open('to.vhdx', tree=trees[round % 2])
            start = 512 * (round % 3)
            length = 8 * MIB - start
            odx.put(target, 0, length, token, start)
            writer.join()
            self.assert_bytes(data[start:], target.read(0, length))
            target.close()


class LeasedCrash(lab.Case):
    """What is left of a lease when one of the processes ends or stands."""
    COUNT, STRIDE = 3000, 128 * KIB
    SIZE = COUNT * STRIDE

    def setUp(self):
        super().setUp()
        self.fill()
        self.owner, self.owner_pid = self.connect_known()
        self.copier, self.copier_pid = self.connect_known()
        self.source = self.owner.create('t/from.vhdx', access=smb2.READ_ONLY,
                                        disposition=smb2.OPEN)
        self.target = self.copier.create('t/to.vhdx')
        self.target.set_size(self.SIZE)
        self.token = odx.get(self.source, 0, self.SIZE)[2]

    def page(self, i):
        return i.to_bytes(4, 'little') * 1024

    def fill(self):
        path = self.make('from.vhdx', size=self.SIZE)
        with open(path, 'r+b') as file:
            for i in range(self.COUNT):
                file.seek(i * self.STRIDE)
                file.write(self.page(i + 1))
        lab.settle(path)

    def connect_known(self):
        before = self.server.children()
        tree = self.connect()
        (pid,) = set(self.server.children()) - set(before)
        return tree, pid

    def send(self):
        return self.target.fsctl_send(
            OFFLOAD_WRITE, write(0, self.SIZE, self.token), 16)

    def pages(self):
        """Which pages of the target are the source's; the others are old."""
        new = 0
        with open(self.path('to.vhdx'), 'rb') as file:
            for i in range(self.COUNT):
                file.seek(i * self.STRIDE)
                page = file.read(4096)
                self.assertIn(page, (self.page(i + 1), bytes(4096)))
                new += page == self.page(i + 1)
        return new

    def write_at_once(self):
        """Nobody makes a writer wait."""
        begun = time.monotonic()
        lab.put(self.path('from.vhdx'), 0, b'x' * 4096)
        self.assertLess(time.monotonic() - begun, 2)

    def test_who_gave_the_token_is_killed(self):
        mid = self.send()
        time.sleep(0.02)
        os.kill(self.owner_pid, signal.SIGKILL)
        reply = self.copier.connection.wait(mid)
        # The copy has a lease of its own, or came too late.
        if reply.status == OK:
            self.assertGreater(self.pages(), 0)
        else:
            self.expect(INVALID_TOKEN, reply.status)
        while self.owner_pid in self.server.children():
            time.sleep(0.01)
        self.write_at_once()
        status, _ = self.target.fsctl(OFFLOAD_WRITE,
                                      write(0, 4096, self.token), 16)
        self.expect(INVALID_TOKEN, status)

    def test_who_copies_is_killed(self):
        self.send()
        time.sleep(0.05)
        os.kill(self.copier_pid, signal.SIGKILL)
        lab.put(self.path('from.vhdx'), 0, b'x' * 4096)
        self.pages()
        target = self.open('to.vhdx')
        odx.put(target, 0, self.SIZE, self.token)
        self.assertEqual(self.COUNT, self.pages())

    def test_the_source_changes_meanwhile(self):
        def by_smb():
            file = self.open('from.vhdx')
            file.write(0, b'x' * 4096)
            file.set_size(4096)
            file.close()

        for change in (lambda: os.truncate(self.path('from.vhdx'), 4096),
                       lambda: lab.put(self.path('from.vhdx'), 0, b'x' * 4096),
                       by_smb):
            self.fill()
            self.token = odx.get(self.source, 0, self.SIZE)[2]
            mid = self.send()
            time.sleep(0.02)
            change()
            reply = self.copier.connection.wait(mid)
            self.expect(OK, reply.status)
            odx.put(self.target, 0, self.SIZE, self.token)
            self.assertEqual(self.COUNT, self.pages())
            os.truncate(self.path('to.vhdx'), 0)
            self.target.set_size(self.SIZE)

    if os.environ.get('HVRS_LONG'):
        def test_who_gave_the_token_stands_still(self):
            """The kernel lets the writer pass after 45 s."""
            os.kill(self.owner_pid, signal.SIGSTOP)
            lab.put(self.path('from.vhdx'), 0, b'x' * 4096)
            os.kill(self.owner_pid, signal.SIGCONT)
            time.sleep(2)
            status, _ = self.target.fsctl(OFFLOAD_WRITE,
                                          write(0, 4096, self.token), 16)
            self.expect(INVALID_TOKEN, status)
            self.assertEqual(0, self.pages())


class Limits(lab.Case):
    shares = dict(fsctl.SHARES, little=(
        lab.DIRECTORIES['vm'],
        ['vfs objects = hvrs', 'hvrs:offload pinned = 1']), strict=(
            lab.DIRECTORIES['vm'],
            ['vfs objects = hvrs', 'hvrs:sparse vdl = no']))

    def status(self, token):
        self.make('to.vhdx', bytes(64 * KIB))
        target = self.open('to.vhdx')
        return target.fsctl(OFFLOAD_WRITE, write(0, 4096, token), 16)[0]

    def test_the_oldest_pin_goes_for_more_bytes(self):
        tokens = []
        for user, name, length in (('hvrs', 'a', 300), ('hvrsadmin', 'b', 300),
                                   ('hvrs', 'c', 300), ('hvrs', 'd', 400)):
            self.make(name, lab.pattern(4096), size=2 << 30)
            os.chmod(self.path(name), 0o666)
            source = self.open(name, tree=self.connect('little', user))
            self.assertEqual(length * MIB,
                             odx.get(source, 0, length * MIB)[0])
            tokens.append(odx.get(source, 0, length * MIB)[2])
            time.sleep(0.005)
        listed = json.loads(lab.run(
            'env', 'SMB_CONF_PATH=' + self.server.config, 'hvrsctl',
            'tokens', '--json'))
        self.assertLessEqual(sum(one['length'] for one in listed), 1 << 30)
        # One user holds half of it at most.
        mine = [one for one in listed if one['file'].endswith('/d')]
        self.assertEqual(1, len(mine), listed)
        self.expect(INVALID_TOKEN, self.status(tokens[0]))
        self.expect(INVALID_TOKEN, self.status(tokens[2]))
        self.expect(OK, self.status(tokens[3]))

    def test_more_than_the_limit_alone(self):
        self.make('big', lab.pattern(4096), size=4 << 30)
        source = self.open('big', tree=self.connect('little'))
        token = odx.get(source, 0, 3 << 30)[2]
        self.expect(OK, self.status(token))

    def test_sparse_files_where_sparse_is_not_for_disks(self):
        self.make('from.data', lab.pattern(64 * KIB))
        file = self.open('from.data', tree=self.connect('strict'))
        odx.get(file, 0, 4096)
        self.expect_fsctl(OK, file, fsctl.SET_SPARSE, b'\1')
        self.expect_fsctl(odx.READ_FILE_NOT_SUPPORTED, file, OFFLOAD_READ,
                          read(0, 4096), 528)
        self.expect_fsctl(odx.WRITE_FILE_NOT_SUPPORTED, file, OFFLOAD_WRITE,
                          write(0, 4096, ZERO), 16)
        self.expect_fsctl(OK, file, fsctl.SET_SPARSE, b'\0')
        odx.get(file, 0, 4096)
        self.assertEqual(4096, odx.put(file, 0, 4096, ZERO))

    def test_time_is_that_of_the_boot_clock(self):
        """Not the wall clock, which can be set back."""
        self.make('from.vhdx', lab.pattern(64 * KIB))
        odx.get(self.open('from.vhdx'), 0, 4096)
        tool = ['env', 'SMB_CONF_PATH=' + self.server.config, 'hvrsctl',
                'tokens', '--json']
        later = ['unshare', '--fork', '--time', '--boottime']
        self.assertNotEqual([], json.loads(lab.run(*later, '60', *tool)))
        self.assertEqual([], json.loads(lab.run(*later, '200', *tool)))

    def test_named_streams_are_no_files_of_their_own(self):
        server = lab.Server({'s': (lab.DIRECTORIES['vm'], [
            'vfs objects = hvrs streams_xattr'])})
        self.addCleanup(server.stop)
        self.make('from.vhdx', lab.pattern(64 * KIB))
        file = server.connect('s').create('t/from.vhdx:more')
        file.write(0, lab.pattern(4096))
        self.expect_fsctl(smb2.INVALID_DEVICE_REQUEST, file, OFFLOAD_READ,
                          read(0, 4096), 528)
        self.expect_fsctl(smb2.INVALID_DEVICE_REQUEST, file, OFFLOAD_WRITE,
                          write(0, 4096, ZERO), 16)

    def test_a_file_system_that_is_not_known(self):
        """Nobody knows whether its ctime tells of every change."""
        path = tempfile.mkdtemp(prefix='hvrs-odx-')
        lab.run('mount', '-t', 'tmpfs', 'tmpfs', path)
        self.addCleanup(os.rmdir, path)
        self.addCleanup(lab.umount, path)
        os.chmod(path, 0o777)
        server = lab.Server({'s': (path, ['vfs objects = hvrs'])})
        self.addCleanup(server.stop)
        file = server.connect('s').create('from')
        file.write(0, lab.pattern(64 * KIB))
        self.expect_fsctl(odx.READ_FILE_NOT_SUPPORTED, file, OFFLOAD_READ,
                          read(0, 4096), 528)
        # Its holes are zeros for all that, and it can be written to.
        self.assertEqual(4096, odx.put(file, 0, 4096, ZERO))
        self.assert_bytes(bytes(4096), file.read(0, 4096))


class Opened:
    """Three files, each open for writing or for reading alone."""

    def __init__(self, trees):
        self.trees = trees
        self.files = [None] * 3
        self.writes = [False] * 3

    def connect(self, k, tree):
        """Another connection in place of one that ends; its tokens live."""
        self.trees[k].connection.close()
        self.trees[k] = tree
        for i in range(3):
            if i % 2 == k:
                self.files[i] = None
                self.reopen(i, self.writes[i])

    def reopen(self, i, writes):
        if self.files[i] is not None:
            self.files[i].close()
        self.files[i] = self.trees[i % 2].create(
            'odx-model/f%d' % i,
            access=smb2.READ_WRITE if writes else smb2.READ_ONLY)
        self.writes[i] = writes

    def writer(self, i):
        if not self.writes[i]:
            self.reopen(i, True)
        return self.files[i]

    def reader(self, i):
        if self.writes[i]:
            self.reopen(i, False)

    def __getitem__(self, i):
        return self.files[i]


class Model(lab.Case):
    """Random operations against a model of files and tokens."""

    operations = int(os.environ.get('HVRS_LONG') or 0) * 20000 or 2500
    seed = 10 * int(os.environ.get('HVRS_SEED') or 0)
    stood_still = 0
    SIZE = 256 * KIB

    def run_on(self, share, seed):
        seed += self.seed
        random.seed(seed)
        directory = lab.DIRECTORIES[share] + '/odx-model'
        lab.run('rm', '-rf', directory)
        os.mkdir(directory)
        lab.run('chown', 'hvrs:hvrs', directory)
        self.addCleanup(lab.run, 'rm', '-rf', directory)
        trees = [self.connect(share) for _ in range(2)]
        for tree in trees:
            # Long runs may stand still for a while.
            tree.connection.socket.settimeout(900)
        self.directory = directory
        files, model = Opened(trees), []
        for i in range(3):
            model.append(bytearray(lab.pattern(self.SIZE, i)))
            files.writer(i).write(0, bytes(model[i]))
        tokens = []
        last = time.monotonic()
        for step in range(self.operations):
            # A lease does not outlive a server that stands still.
            if time.monotonic() > last + 20:
                self.stood_still = time.monotonic()
                print('\nstood still for %d s' % (self.stood_still - last))
            last = time.monotonic()
            self.step(share, files, model, tokens)
            if step % 500 == 499:
                for i, wanted in enumerate(model):
                    self.assert_bytes(bytes(wanted),
                                      files[i].read(0, 4 * self.SIZE),
                                      'step %d, seed %d' % (step, seed))
        for i, wanted in enumerate(model):
            self.assert_bytes(bytes(wanted),
                              lab.content('%s/f%d' % (directory, i)))

    def part(self, data):
        unit = random.choice((512, 4096))
        size = max(len(data), unit)
        offset = random.randrange(size // unit) * unit
        length = min(random.choice((1, 7, 8, 64, 200)) * unit,
                     size - offset)
        return offset, length

    def step(self, share, files, model, tokens):
        i, j = random.randrange(3), random.randrange(3)
        what = random.random()
        if random.random() < 0.01 and \
                len(odx.holders(self.server)) < odx.PLACES:
            k = random.randrange(2)
            files.connect(k, self.connect(share))
            files.trees[k].connection.socket.settimeout(900)
        if what < 0.30:
            offset, length = self.part(model[i])
            data = random.randbytes(length)
            if random.random() < 0.1:
                lab.put('%s/f%d' % (self.directory, i), offset, data)
            else:
                files.writer(i).write(offset, data)
            end = offset + length
            if end > len(model[i]):
                model[i] += bytes(end - len(model[i]))
            model[i][offset:end] = data
        elif what < 0.36:
            size = random.randrange(1024, self.SIZE * 3 // 2)
            files.writer(i).set_size(size)
            model[i] = model[i][:size] + bytes(max(0, size - len(model[i])))
        elif what < 0.42:
            offset, length = self.part(model[i])
            end = min(offset + length, len(model[i]))
            files.writer(i).fsctl(fsctl.SET_ZERO_DATA,
                                  fsctl.zero(offset, offset + length))
            model[i][offset:end] = bytes(end - offset)
        elif what < 0.46:
            files.reader(i)
        elif what < 0.70 or not tokens:
            offset, length = self.part(model[i])
            length = (length + 511) // 512 * 512
            moved, _, token = odx.get(files[i], offset, length)
            self.assertLessEqual(moved, length)
            data = bytes(model[i][offset:offset + moved])
            # Of a zero token, nothing tells where its source ended.
            whole = moved if token == ZERO else len(data)
            tokens.append((token, time.monotonic(), moved, whole,
                           data + bytes(moved - len(data))))
            del tokens[:-20]
        else:
            token, born, moved, whole, data = random.choice(tokens)
            # What lies at whole clusters can be shared.
            unit = random.choice((512, 4096))
            start = random.randrange(max(moved // unit, 1)) * unit
            length = moved - start
            size = len(model[j])
            grows = size % 512 == 0 and random.random() < 0.1
            offset = size if grows else \
                random.randrange(max(size // unit, 1)) * unit
            status, out = files.writer(j).fsctl(
                OFFLOAD_WRITE, write(offset, length, token, start), 16)
            if status == INVALID_TOKEN and (
                    share == 'vmext4' or born < self.stood_still or
                    time.monotonic() > born + 100):
                return
            self.expect(OK, status)
            done = int.from_bytes(out[8:], 'little')
            self.assertGreater(done, 0)
            # A file that grows ends where the source did.
            real = min(done, whole - start if grows else size - offset)
            model[j][offset:offset + real] = data[start:start + real]

    def test_on_xfs(self):
        self.run_on('vm', 1)

    def test_on_btrfs(self):
        self.run_on('vmbtrfs', 2)

    def test_on_ext4(self):
        self.run_on('vmext4', 3)


class Death(unittest.TestCase):
    """kill -9 in the middle of a long write."""

    def test_only_old_or_new_bytes(self):
        path = lab.DIRECTORIES['vmext4'] + '/odx-death'
        lab.run('rm', '-rf', path)
        os.mkdir(path)
        lab.run('chown', 'hvrs:hvrs', path)
        self.addCleanup(lab.run, 'rm', '-rf', path)
        size = 200 * MIB
        block = lab.pattern(MIB, 1)
        with open(path + '/from', 'wb') as out:
            for _ in range(size // MIB):
                out.write(block)
        other = lab.pattern(MIB, 2)
        with open(path + '/to', 'wb') as out:
            for _ in range(size // MIB + 2):
                out.write(other)
        lab.run('chown', '-R', 'hvrs:hvrs', path)
        server = lab.Server({'s': (path, ['vfs objects = hvrs'])})
        self.addCleanup(server.stop)
        tree = server.connect('s')
        source, target = tree.create('from'), tree.create('to')
        time.sleep(0.05)
        _, _, token = odx.get(source, 0, size)
        target.fsctl_send(OFFLOAD_WRITE, write(MIB, size, token), 16)
        time.sleep(0.05)
        server.kill()
        with open(path + '/to', 'rb') as file:
            blocks = [file.read(MIB) for _ in range(size // MIB + 2)]
        self.assert_old(other, blocks[0])
        self.assert_old(other, blocks[-1])
        new = 0
        for data in blocks[1:-1]:
            for at in range(0, MIB, 4096):
                page = data[at:at + 4096]
                self.assertIn(page, (block[at:at + 4096],
                                     other[at:at + 4096]))
                new += page == block[at:at + 4096]
        server.start()
        target = server.connect('s').create('to')
        status, _ = target.fsctl(OFFLOAD_WRITE, write(0, 4096, token), 16)
        self.assertEqual(INVALID_TOKEN, status)

    def assert_old(self, wanted, got):
        self.assertTrue(wanted == got)

    def test_nothing_is_left_on_disk(self):
        disk = lab.LoopDisk(size=600 * MIB)
        self.addCleanup(disk.remove)
        server = lab.Server({'s': (disk.share, ['vfs objects = hvrs'])})
        self.addCleanup(server.stop)
        tree = server.connect('s')
        source = tree.create('from')
        source.write(0, lab.pattern(64 * MIB, 1))
        source.flush()
        free = disk.free()
        _, _, token = odx.get(source, 0, 64 * MIB)
        for seed in (2, 3):
            source.write(0, lab.pattern(64 * MIB, seed))
        source.flush()
        # The pin holds what the source has given up.
        self.assertLess(disk.free(), free - 60 * MIB)
        server.kill()
        for _ in range(100):
            if disk.free() > free - 4 * MIB:
                break
            time.sleep(0.1)
        self.assertGreater(disk.free(), free - 4 * MIB)
        self.assertEqual(['from'], os.listdir(disk.share))


if __name__ == '__main__':
    unittest.main()
