"""Shared opens and the tunnel: what is refused and how, share modes, images
that are none, parents, and that no stream is ever made."""

import os
import struct
import uuid

import lab
import rsvd
import smb2
from rsvd import SHARING_VIOLATION

INVALID_NAME = 0xC0000033


def header(operation, request=7):
    return struct.pack('<IIQ', operation, 0, request)


class Opens(rsvd.Case):

    def test_the_context_is_checked_in_order(self):
        guid = uuid.uuid4()
        good = rsvd.open_context(guid)
        for name, status, context in (
                ('none', smb2.INVALID_PARAMETER, b''),
                ('short', smb2.BUFFER_TOO_SMALL, good[:167]),
                ('version 0', smb2.INVALID_PARAMETER,
                 rsvd.open_context(guid, version=0)),
                ('version 3', smb2.INVALID_PARAMETER,
                 rsvd.open_context(guid, version=3)),
                ('version 2, short', smb2.BUFFER_TOO_SMALL,
                 rsvd.open_context(guid, version=2)[:191]),
                ('initiator 2', smb2.INVALID_PARAMETER,
                 rsvd.open_context(guid, has=2)),
                ('name', smb2.INVALID_PARAMETER,
                 good[:40] + struct.pack('<H', 127) + good[42:])):
            with self.subTest(name):
                self.refused(status, context=context)
        self.disk(context=good + b'more')

    def test_the_answer_echoes_the_context(self):
        context = rsvd.open_context(uuid.uuid4(), host='x' * 63,
                                    request=0x1122334455667788, flags=9)
        self.assertEqual([(rsvd.CONTEXT, context)],
                         self.disk(context=context).answers)

    def test_the_suffix_in_any_case(self):
        self.disk(suffix=':sharedvirtualDISK')

    def test_a_disk_that_is_not_there(self):
        self.refused(smb2.NAME_NOT_FOUND, 't/none.vhdx')
        self.refused(smb2.NAME_NOT_FOUND, 't/none.vhdx', disposition=3)
        self.assertEqual(['disk.vhdx'], os.listdir(self.directory))

    def test_a_folder(self):
        os.mkdir(self.path('folder'))
        os.chmod(self.path('folder'), 0o777)
        self.refused(0xC00000BA, 't/folder')

    def test_other_dispositions(self):
        before = lab.content(self.image)
        for disposition in (0, 2, 4, 5):
            self.refused(smb2.INVALID_PARAMETER, disposition=disposition)
        self.assertEqual(before, lab.content(self.image))

    def test_the_context_without_the_suffix(self):
        self.refused(rsvd.VHD_SHARED, suffix='', context=rsvd.open_context(
            uuid.uuid4(), originator=4))
        plain = self.disk(suffix='')
        self.assertEqual([], plain.answers)
        self.assertEqual(b'vhdxfile', plain.read(0, 8))
        self.expect(smb2.INVALID_DEVICE_REQUEST,
                    plain.tunnel(rsvd.INITIAL_INFO)[0])

    def test_the_file_itself_for_tools_of_the_host(self):
        context = rsvd.open_context(uuid.uuid4(), originator=4)
        raw = self.disk(context=context)
        self.assertEqual(b'vhdxfile', raw.read(0, 8))
        raw.close()
        shared = self.disk()
        self.refused(rsvd.VHD_SHARED, context=context)
        shared.close()
        self.disk(context=context)

    def test_no_rights_no_disk(self):
        tree = self.connect(user='other')
        self.refused(smb2.ACCESS_DENIED, tree=tree)
        os.chmod(self.image, 0o600)
        self.refused(smb2.ACCESS_DENIED, tree=tree)

    def test_no_oplock_and_no_stream(self):
        disk = self.disk()
        self.assertEqual(0, disk.oplock)
        disk.write_status(0, lab.pattern(4096))
        disk.close()
        self.assertEqual(['disk.vhdx'], os.listdir(self.directory))
        self.assertEqual([], [name for name in os.listxattr(self.image)
                              if 'stream' in name.lower()])

    def test_ordinary_streams_fail_as_before(self):
        for name in ('t/disk.vhdx:notes', 't/disk.vhdx:SharedVirtualDis',
                     't/disk.vhdx:x:SharedVirtualDisk'):
            with self.assertRaises(smb2.StatusError) as caught:
                self.tree.create(name)
            self.expect(INVALID_NAME, caught.exception.status)

    def test_a_share_without_shared_disks_has_none(self):
        tree = self.connect('vmoff')
        lab.run('mkdir', '-p', '/srv/xfs/vmoff/t')
        rsvd.make_disk('/srv/xfs/vmoff/t/disk.vhdx')
        lab.run('chown', 'hvrs', '/srv/xfs/vmoff/t')
        self.addCleanup(lab.run, 'rm', '-r', '/srv/xfs/vmoff/t')
        self.refused(INVALID_NAME, tree=tree)
        file = tree.create('t/disk.vhdx')
        self.expect_fsctl(smb2.INVALID_DEVICE_REQUEST, file,
                          rsvd.QUERY_SUPPORT)
        self.assertEqual(['disk.vhdx'], os.listdir('/srv/xfs/vmoff/t'))

    def test_a_rename_to_such_a_name(self):
        file = self.open('other.vhdx', b'x' * 100)
        file = self.tree.create('t/other.vhdx', access=0x10000 | 0x80)
        name = 't\\disk.vhdx:SharedVirtualDisk'.encode('utf-16-le')
        status = file.set_info(10, struct.pack('<B7xQI', 1, 0, len(name)) +
                               name)
        self.assertNotEqual(0, status)
        self.assertEqual(b'vhdxfile', lab.content(self.image, 0, 8))


class ShareModes(rsvd.Case):

    def plain(self, share=None, **how):
        tree = self.connect(share)
        return tree.create('t/disk.vhdx', disposition=smb2.OPEN, **how)

    def violation(self, share=None, **how):
        with self.assertRaises(smb2.StatusError) as caught:
            self.plain(share, **how)
        self.expect(SHARING_VIOLATION, caught.exception.status)

    def test_plain_openers_beside_a_shared_one(self):
        disk = self.disk()
        for share in ('vm', 'vmraw'):
            self.violation(share)
            self.violation(share, access=smb2.WRITE_DATA)
            self.violation(share, access=smb2.DELETE)
            self.plain(share, access=smb2.READ_ONLY).close()
            self.plain(share, access=smb2.READ_ATTRIBUTES).close()
        self.other()
        disk.close()
        self.violation()

    def test_a_shared_opener_beside_plain_ones(self):
        for share in ('vm', 'vmraw'):
            writer = self.plain(share)
            self.refused(SHARING_VIOLATION)
            writer.close()
            reader = self.plain(share, access=smb2.READ_ONLY)
            self.disk().close()
            reader.close()

    def test_the_last_close_lets_writers_in(self):
        first, second = self.disk(), self.other()
        first.close()
        self.violation()
        second.close()
        self.plain().close()

    def test_a_lost_connection_lets_writers_in(self):
        disk = self.other()
        disk.tree.connection.close()
        for _ in range(100):
            try:
                self.plain().close()
                return
            except smb2.StatusError:
                pass
        self.fail('the file stays shared')

    def test_what_does_not_fit_a_shared_open(self):
        disk = self.disk()
        self.expect(0xC0000055, disk.lock(0, 512))
        before = os.stat(self.image).st_size
        self.assertNotEqual(0, disk.set_info(20, struct.pack('<Q', 4096)))
        self.assertNotEqual(0, disk.set_info(19, struct.pack('<Q', 4096)))
        self.assertEqual(before, os.stat(self.image).st_size)
        self.expect_fsctl(0xC000A2A3, disk, rsvd.OFFLOAD_READ, bytes(32))
        self.expect_fsctl(0xC000A2A4, disk, rsvd.OFFLOAD_WRITE, bytes(544))
        name = 't\\new.vhdx'.encode('utf-16-le')
        self.assertNotEqual(0, disk.set_info(10, struct.pack(
            '<B7xQI', 1, 0, len(name)) + name))
        self.assertEqual(['disk.vhdx'], os.listdir(self.directory))

    def test_content_fsctls_do_not_reach_the_file(self):
        """Zeroing bytes of the container would break the disk in it."""
        disk = self.disk()
        before = lab.content(self.image)
        for code, data in ((0x980C8, struct.pack('<QQ', 0, 1 << 20)),
                           (0x98208, struct.pack('<IIQQ', 0, 1, 0, 1 << 20))):
            self.assertNotEqual(0, disk.fsctl(code, data)[0], hex(code))
        self.assertEqual(before, lab.content(self.image))


class Sizes(rsvd.Case):
    """QUERY_INFO of a shared open tells of the disk, not of its file."""

    def told(self, disk):
        """(AllocationSize, EndOfFile), which all levels agree on."""
        status, standard = disk.info(5, max_out=24)
        self.expect(0, status)
        found = struct.unpack_from('<QQ', standard)
        for level, at in ((34, 32), (18, 40)):
            status, data = disk.info(level)
            self.expect(0, status)
            self.assertEqual(found, struct.unpack_from('<QQ', data, at))
        self.assertEqual((0, struct.pack('<Q', found[1])), disk.info(20))
        return found

    def container(self, path=None):
        return os.stat(path or self.image).st_size

    def test_of_a_dynamic_disk(self):
        disk, other = self.disk(), self.other()
        self.assertEqual((self.container(), 64 * lab.MIB), self.told(disk))
        before = self.container()
        self.expect(0, other.write_status(9 * lab.MIB, lab.pattern(4096)))
        self.assertLess(before, self.container())
        self.assertEqual((self.container(), 64 * lab.MIB), self.told(disk))
        info = disk.tunnel(rsvd.DISK_INFO, bytes(56))[2]
        self.assertEqual((self.container(),),
                         struct.unpack_from('<Q', info, 32))

    def test_of_a_fixed_disk(self):
        path = rsvd.make_disk(self.path('fixed.vhdx'), 8 * lab.MIB, 'fixed')
        self.assertEqual((self.container(path), 8 * lab.MIB),
                         self.told(self.disk('t/fixed.vhdx')))

    def test_of_a_disk_that_somebody_else_resized(self):
        disk, other = self.disk(), self.other()
        self.expect(0, other.resize(80 * lab.MIB))
        self.assertEqual(80 * lab.MIB, self.told(disk)[1])

    def test_of_a_set(self):
        """The file behind it is the one that is written to."""
        rsvd.make_set(self.path('set.vhds'))
        disk = self.disk('t/set.vhds')
        self.expect(0, disk.write_status(0, lab.pattern(lab.MIB)))
        (leaf,) = [name for name in os.listdir(self.directory)
                   if name.endswith('.avhdx')]
        self.assertEqual((self.container(self.path(leaf)), 64 * lab.MIB),
                         self.told(disk))

    def test_without_room(self):
        disk = self.disk()
        for level, room in ((5, 24), (34, 56), (20, 8)):
            self.expect(smb2.BUFFER_TOO_SMALL,
                        disk.info(level, max_out=room - 1)[0])
            self.expect(0, disk.info(level, max_out=room)[0])

    def test_other_opens_of_the_file(self):
        """Theirs are the file's own, with smbd's status for no room."""
        disk = self.disk()
        reader = self.tree.create('t/disk.vhdx', access=smb2.READ_ONLY,
                                  disposition=smb2.OPEN)
        self.assertEqual(self.container(), self.told(reader)[1])
        self.expect(smb2.INFO_LENGTH_MISMATCH, reader.info(5, max_out=23)[0])
        disk.close()
        reader.close()
        raw = self.disk(context=rsvd.open_context(uuid.uuid4(),
                                                  originator=4))
        self.assertEqual(self.container(), self.told(raw)[1])
        self.expect(smb2.BUFFER_TOO_SMALL, raw.info(5, max_out=23)[0])


class Unmap(rsvd.Case):
    """UNMAP frees on a disk that says it is thin, and does nothing on one
    that says it is not."""

    AT = 4 * lab.MIB

    def page(self, disk, page):
        return self.good(disk.scsi([0x12, 1, page, 0, 255], room=255)).data

    def written(self, kind):
        path = rsvd.make_disk(self.path('u.vhdx'), 16 * lab.MIB, kind)
        disk = self.disk('t/u.vhdx')
        data = lab.pattern(2 * lab.MIB, 3)
        for at in (0, lab.MIB):
            self.expect(0, disk.write_status(self.AT + at,
                                             data[at:at + lab.MIB]))
        self.expect(0, disk.flush())
        return path, disk, data

    def unmap(self, disk, offset, length):
        self.good(disk.scsi([0x42, 0, 0, 0, 0, 0, 0, 0, 24], struct.pack(
            '>HHIQII', 22, 16, 0, offset // 512, length // 512, 0)))

    def status(self, disk, offset):
        """(offset, length, state) of the extents from there on."""
        data = self.good(disk.scsi(struct.pack(
            '>BBQIBB', 0x9E, 0x12, offset // 512, 4096, 0, 0),
            room=4096)).data
        return [(512 * at, 512 * count, state) for at, count, state in
                struct.iter_unpack('>QIBxxx', data[8:])]

    def test_of_a_dynamic_disk(self):
        path, disk, data = self.written('dynamic')
        # LBPU, LBPWS, LBPWS10, LBPRZ; thin; LBPME, LBPRZ
        self.assertEqual(bytes([0, 0xB2, 0, 4, 1, 0xE4, 2, 0]),
                         self.page(disk, 0xB2))
        capacity = self.good(disk.scsi([0x9E, 0x10] + [0] * 11 + [32],
                                       room=32)).data
        self.assertEqual(0xC0, capacity[14])
        before = lab.blocks(path)
        self.unmap(disk, self.AT, lab.MIB)
        self.assertLessEqual(lab.blocks(path), before - lab.MIB)
        self.assert_bytes(bytes(lab.MIB), disk.read_status(self.AT,
                                                           lab.MIB)[1])
        self.assert_bytes(data[lab.MIB:], disk.read_status(
            self.AT + lab.MIB, lab.MIB)[1])
        self.assertEqual([(self.AT, lab.MIB, 1),
                          (self.AT + lab.MIB, lab.MIB, 0),
                          (self.AT + 2 * lab.MIB, 10 * lab.MIB, 1)],
                         self.status(disk, self.AT))

    def test_of_a_fixed_disk(self):
        path, disk, data = self.written('fixed')
        # LBPU alone, as [MS-HVRS] has it; not thin; no LBPME
        self.assertEqual(bytes([0, 0xB2, 0, 4, 1, 0x80, 0, 0]),
                         self.page(disk, 0xB2))
        capacity = self.good(disk.scsi([0x9E, 0x10] + [0] * 11 + [32],
                                       room=32)).data
        self.assertEqual(0, capacity[14])
        before = lab.blocks(path), lab.content(path)
        self.unmap(disk, self.AT, lab.MIB)
        self.unmap(disk, 0, 16 * lab.MIB)
        self.assertEqual(before[0], lab.blocks(path))
        self.assert_bytes(before[1], lab.content(path))
        self.assert_bytes(data[:lab.MIB], disk.read_status(self.AT,
                                                           lab.MIB)[1])
        self.assertEqual([(0, 16 * lab.MIB, 0)], self.status(disk, 0))

    def test_write_same_with_unmap_reads_as_zero_on_both(self):
        for kind in ('fixed', 'dynamic'):
            path, disk, data = self.written(kind)
            self.good(disk.scsi(struct.pack('>BBQIBB', 0x93, 0x09, (
                self.AT + 512) // 512, lab.MIB // 512, 0, 0)))
            wanted = data[:512] + bytes(lab.MIB) + data[512 + lab.MIB:]
            for at in (0, lab.MIB):
                self.assert_bytes(wanted[at:at + lab.MIB], disk.read_status(
                    self.AT + at, lab.MIB)[1], kind)
            disk.close()
            os.unlink(path)


class Tunnel(rsvd.Case):

    def test_generic_checks(self):
        disk = self.disk()
        send = lambda data, room=4096: disk.fsctl(rsvd.SYNC_TUNNEL, data, room)
        self.expect(smb2.BUFFER_TOO_SMALL, send(b'')[0])
        self.expect(smb2.BUFFER_TOO_SMALL, send(bytes(15))[0])
        self.expect(smb2.INVALID_DEVICE_REQUEST,
                    send(header(0x01001001))[0])
        for operation, status in ((0x02002FFF, smb2.INVALID_PARAMETER),
                                  (0x02003001, rsvd.VERSION),
                                  (0x02000001, rsvd.VERSION),
                                  (0x02001000, smb2.INVALID_PARAMETER),
                                  (0x02001007, smb2.INVALID_PARAMETER)):
            got, out = send(header(operation))
            self.expect(0, got)
            self.assertEqual((operation, status, 7),
                             struct.unpack('<IIQ', out))

    def test_rooms_for_the_answer(self):
        disk = self.disk()
        for operation, room, body, status in (
                (rsvd.INITIAL_INFO, 40, b'', smb2.BUFFER_TOO_SMALL),
                (rsvd.SCSI, 52, None, smb2.INVALID_PARAMETER),
                (rsvd.SRB_STATUS, 40, bytes(28), smb2.INVALID_PARAMETER),
                (rsvd.DISK_INFO, 72, bytes(56), smb2.BUFFER_TOO_SMALL),
                (rsvd.VALIDATE, 17, bytes(56), smb2.BUFFER_TOO_SMALL)):
            if body is None:
                body = disk.scsi_body([0])
            self.expect(status, disk.tunnel(operation, body, room - 1)[0])
            self.expect(0, disk.tunnel(operation, body, room)[0])
        got, out = disk.fsctl(rsvd.SYNC_TUNNEL,
                              header(rsvd.CHECK_CONNECTION), 15)
        self.expect(smb2.BUFFER_OVERFLOW, got)
        self.expect(smb2.INVALID_PARAMETER,
                    disk.tunnel(rsvd.SRB_STATUS, b'')[0])

    def test_either_code_and_trailing_bytes(self):
        disk = self.disk()
        for code in (rsvd.SYNC_TUNNEL, rsvd.ASYNC_TUNNEL):
            smb, status, out = disk.tunnel(rsvd.INITIAL_INFO, bytes(24),
                                           code=code)
            self.assertEqual((0, 0, 24), (smb, status, len(out)))

    def test_bad_scsi_bodies(self):
        disk = self.disk()
        good = disk.scsi_body([0x25], b'', 8)

        def bad(body, target=disk, status=smb2.INVALID_PARAMETER):
            smb, got, out = target.tunnel(rsvd.SCSI, body)
            self.expect(0, smb)
            self.expect(status, got)
            self.assertEqual(body[:36], out)
        bad(good[:35])
        bad(struct.pack('<H', 35) + good[2:])
        bad(good[:4] + b'\x11' + good[5:])
        bad(good[:5] + b'\x15' + good[6:])
        bad(disk.scsi_body([0x2A, 0, 0, 0, 0, 0, 0, 0, 1], bytes(512))[:-1])
        none = self.other(initiator=None)
        bad(good, none, smb2.INVALID_HANDLE)
        zero = self.other(initiator=uuid.UUID(int=0),
                          context=rsvd.open_context(uuid.UUID(int=0), has=1))
        bad(good, zero, smb2.INVALID_HANDLE)

    def test_support_on_plain_files(self):
        file = self.open('plain.bin', b'x')
        self.assertEqual((0, struct.pack('<II', 7, 0)),
                         file.fsctl(rsvd.QUERY_SUPPORT, b'', 8))
        self.expect_fsctl(smb2.BUFFER_TOO_SMALL, file, rsvd.QUERY_SUPPORT,
                          b'', 7)
        disk = self.disk()
        reader = self.tree.create('t/disk.vhdx', access=smb2.READ_ONLY,
                                  disposition=smb2.OPEN)
        self.assertEqual((0, struct.pack('<II', 7, 1)),
                         reader.fsctl(rsvd.QUERY_SUPPORT, b'', 8))
        disk.close()
        self.assertEqual((0, struct.pack('<II', 7, 0)),
                         reader.fsctl(rsvd.QUERY_SUPPORT, b'', 8))

    def test_errors_of_read_and_write_are_stored(self):
        disk = self.disk()
        end = 64 * lab.MIB
        for key in range(1, 4):
            status, _ = disk.read_status(end, 512)
            self.expect(rsvd.STORED + key, status)
        self.expect(rsvd.STORED + 4, disk.write_status(end - 512,
                                                       bytes(1024)))
        for key, opcode in ((1, 'read'), (4, 'write')):
            smb, status, out = disk.tunnel(rsvd.SRB_STATUS,
                                           bytes([key]) + bytes(27))
            self.assertEqual((0, 0, key, 0x86, 2, 20),
                             (smb, status, *out[:4]))
            self.assertEqual(bytes.fromhex('7000050000000000'
                                           '0000000021000000'),
                             bytes([out[4], 0, out[6], 0, 0, 0, 0, 0]) +
                             bytes(4) + out[16:20])
        for key in (0, 5, 0x0D):
            self.assertEqual((0, rsvd.NOT_STORED),
                             disk.tunnel(rsvd.SRB_STATUS,
                                         bytes([key]) + bytes(27))[:2])
        other = self.other()
        self.expect(rsvd.STORED + 1, other.read_status(end, 512)[0])

    def test_alignment_and_buffering(self):
        disk = self.disk()
        self.expect(smb2.INVALID_PARAMETER, disk.read_status(1, 512)[0])
        self.expect(smb2.INVALID_PARAMETER, disk.read_status(0, 511)[0])
        self.expect(smb2.INVALID_PARAMETER, disk.write_status(256, bytes(512)))
        buffered = self.other(options=0)
        self.expect(smb2.NOT_SUPPORTED, buffered.read_status(0, 512)[0])
        self.expect(smb2.NOT_SUPPORTED, buffered.write_status(0, bytes(512)))

    def test_an_open_for_reading_does_not_write(self):
        disk = self.disk(access=0x1 | 0x80)
        self.expect(0, disk.read_status(0, 512)[0])
        self.expect(smb2.ACCESS_DENIED, disk.write_status(0, bytes(512)))


class Images(rsvd.Case):

    def test_files_that_are_no_disks(self):
        self.make('text.vhdx', b'not a disk' * 1000)
        self.make('empty.vhdx')
        self.make('old.vhd', b'conectix' + bytes(504))
        for name in ('text.vhdx', 'empty.vhdx', 'old.vhd'):
            self.refused(rsvd.WRONG_TYPE, 't/' + name)
        self.server.alive()

    def test_broken_disks(self):
        size = os.path.getsize(self.image)
        whole = lab.content(self.image)
        for name, at, length in (('headers', 65536, 0x20000),
                                 ('regions', 0x30000, 0x20000),
                                 ('all but the name', 8, size - 8)):
            lab.put(self.image, at, b'\xFF' * length)
            self.refused(0xC0000102)
            lab.put(self.image, 0, whole)
        with open(self.image, 'r+b') as file:
            file.truncate(lab.MIB + 10)
        with self.assertRaises(smb2.StatusError):
            self.disk()
        self.server.alive()


    def test_fixed_and_dynamic(self):
        for kind in ('fixed', 'dynamic'):
            path = rsvd.make_disk(self.path(kind + '.vhdx'), 8 * lab.MIB, kind)
            disk = self.disk('t/%s.vhdx' % kind)
            data = lab.pattern(lab.MIB, 5)
            self.expect(0, disk.write_status(3 * lab.MIB - 512 * 3, data))
            self.expect(0, disk.flush())
            self.assert_bytes(data, disk.read_status(3 * lab.MIB - 512 * 3,
                                                     lab.MIB)[1])
            disk.close()
            lab.run('qemu-img', 'convert', '-O', 'raw', path,
                    self.path('raw'))
            wanted = bytearray(8 * lab.MIB)
            wanted[3 * lab.MIB - 1536:4 * lab.MIB - 1536] = data
            self.assert_bytes(bytes(wanted), lab.content(self.path('raw')))


if __name__ == '__main__':
    import unittest
    unittest.main()
