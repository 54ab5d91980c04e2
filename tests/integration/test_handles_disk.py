"""Handles and the disk they are kept on: power failures, full disks, damage,
and requests that nobody should send."""

import os
import random
import struct
import time
import unittest
import uuid

import handles
import lab
import smb2
from handles import H, R, W, Client, dh2c, dh2q, granted, lease_state
from smb2 import (FILE_NOT_AVAILABLE, INVALID_PARAMETER, LOCK_NOT_GRANTED,
                  NAME_NOT_FOUND, OK, StatusError)


class Disk(unittest.TestCase):
    def setUp(self):
        self.disk = lab.LoopDisk('xfs')
        self.addCleanup(self.disk.remove)
        self.store = self.disk.mount + '/store'
        self.server = lab.Server(
            {'vm': (self.disk.share, ['vfs objects = hvrs']),
             'raw': (self.disk.share, [])},
            ['hvrs:handle store = ' + self.store])
        self.addCleanup(self.server.stop)

    def client(self, share='vm'):
        client = Client(self.server, share)
        self.addCleanup(lambda: client.drop())
        return client

    def power_failure(self):
        """What was not synced is gone."""
        self.disk.fail()
        self.server.kill()
        self.disk.mount_again()
        self.server.start()

    def test_power_failure(self):
        for round in range(3):
            client = self.client()
            name = 'f%d' % round
            file = client.open(name, R | H | W, sharing=0,
                               disposition=smb2.CREATE_NEW)
            data = lab.pattern(50000, round)
            file.write(0, data)
            self.assertEqual(OK, file.lock(7, 7))
            # Right after the answers.
            self.power_failure()
            client.drop()
            other = self.client('raw')
            with self.assertRaises(StatusError) as caught:
                other.tree.create(name)
            self.assertEqual(FILE_NOT_AVAILABLE, caught.exception.status)
            client.connect()
            file = client.reconnect(file)
            self.assertEqual(R | H | W, lease_state(file))
            self.assertEqual(data, file.read(0, len(data)))
            self.assertEqual(OK, file.lock(7, 7, unlock=True))
            self.assertEqual(smb2.RANGE_NOT_LOCKED,
                             file.lock(7, 7, unlock=True))
            file.close()

    def test_full_disk(self):
        client = self.client()
        kept = client.open('kept', sharing=0)
        client.open('kept0').close()
        client.open('kept1').close()
        name = self.disk.mount + '/filler'
        with open(name, 'wb') as filler:
            try:
                while True:
                    os.write(filler.fileno(), bytes(1 << 20))
            except OSError:
                pass
            try:
                while True:
                    os.write(filler.fileno(), bytes(4096))
            except OSError:
                pass
        # What is reserved still takes some.
        refused = None
        for i in range(4000):
            status = kept.lock(2 * i, 1)
            if status != OK:
                refused = status
                break
        self.assertEqual(smb2.DISK_FULL, refused)
        for i in range(8000):
            file = client.open('kept0')
            if granted(file) is None:
                break
            file.close()
        self.assertIsNone(granted(file))
        self.assertEqual(1, len([line for line in self.server.lines(
            'kept0.*opened without persistence')]))
        file.close()
        os.unlink(name)
        lab.run('sync', '-f', self.disk.mount)
        file = client.open('kept1')
        self.assertEqual((60000, 2), granted(file))
        self.server.alive()

    def test_disk_that_fails_and_is_well_again(self):
        """Nothing is promised meanwhile, and smbd need not be restarted."""
        store = lab.LoopDisk('xfs')
        self.addCleanup(store.remove)
        self.server.stop()
        server = lab.Server({'vm': (self.disk.share, ['vfs objects = hvrs'])},
                            ['hvrs:handle store = %s/store' % store.mount])
        self.addCleanup(server.stop)
        self.server = server
        client, other = self.client(), self.client()
        kept = client.open('kept', sharing=0)
        self.assertEqual((60000, 2), granted(kept))
        self.assertEqual(OK, kept.lock(0, 1))
        store.fail()
        for one in (client, other):
            file = one.open('bad-%d' % id(one))
            self.assertIsNone(granted(file))
            file.close()
        self.assertEqual(smb2.DISK_FULL, kept.lock(2, 1))
        # Another takes its place.
        well = self.disk.mount + '/well'
        os.makedirs(well + '/store', 0o700)
        lab.run('mount', '--bind', well, store.mount)
        self.addCleanup(lab.umount, store.mount)
        self.addCleanup(server.stop)
        time.sleep(1.1)
        file = other.open('good', R | H | W, sharing=0)
        self.assertEqual((60000, 2), granted(file))
        self.assertEqual(OK, kept.lock(4, 1))
        self.assertEqual(1, len(server.lines('is written anew')))
        server.kill()
        client.drop()
        other.drop()
        server.start()
        client.connect()
        other.connect()
        kept = client.reconnect(kept)
        self.assertEqual(OK, kept.lock(0, 1, unlock=True))
        self.assertEqual(OK, kept.lock(4, 1, unlock=True))
        other.reconnect(file).close()
        self.server.alive()

    def damage(self, how):
        client = self.client()
        files = [client.open('d%d' % i, sharing=0) for i in range(3)]
        self.server.kill()
        client.drop()
        path = self.store + '/handles.log'
        with open(path, 'rb') as log:
            data = log.read()
        with open(path, 'wb') as log:
            log.write(how(data))
        self.server.start()
        client.connect()
        return [client.reconnect_status(file) for file in files]

    @staticmethod
    def frames(data):
        at, found = 32, []
        while at + 48 <= len(data) and data[at:at + 4] == b'HFRM':
            (length,) = struct.unpack_from('<I', data, at + 4)
            found.append(at)
            at += 48 + (length + 7) // 8 * 8
        return found

    def test_flipped_bit(self):
        def flip(data):
            at = self.frames(data)[1] + 48 + 100
            return data[:at] + bytes([data[at] ^ 4]) + data[at + 1:]
        self.assertEqual([OK, NAME_NOT_FOUND, OK], self.damage(flip))
        self.assertEqual(1, len(self.server.lines('is damaged')))
        self.server.alive()

    def test_flipped_bits_anywhere(self):
        """Of every handle that comes back all is as it was, and nobody
        crashes.  Nothing in the log tells damage of the very last frames from
        a write that was never finished."""
        seed = int(os.environ.get('HVRS_SEED') or random.randrange(1 << 30))
        choose = random.Random(seed)
        for round in range(200 if os.environ.get('HVRS_LONG') else 8):
            client = self.client()
            files = [client.open('f%d-%d' % (round, i), (None, R | H | W)[
                i % 2], sharing=0) for i in range(6)]
            for i, file in enumerate(files):
                file.write(0, b'%06d' % i)
                self.assertEqual(OK, file.lock(i, 3))
            # Its frame says that those before are on disk.
            client.open('last').close()
            self.server.kill()
            client.drop()
            path = self.store + '/handles.log'
            with open(path, 'rb') as log:
                data = bytearray(log.read())
            length = self.frames(data)[-2]
            for _ in range(choose.choice((1, 1, 2, 5, 40))):
                data[choose.randrange(length)] ^= 1 << choose.randrange(8)
            with open(path, 'wb') as log:
                log.write(data)
            self.server.start()
            client.connect()
            for i, file in enumerate(files):
                status = client.reconnect_status(file, guid=bytes(16))
                self.assertEqual(NAME_NOT_FOUND, status, seed)
                try:
                    again = client.reconnect(file)
                except StatusError as error:
                    self.assertEqual(NAME_NOT_FOUND, error.status, seed)
                    continue
                self.assertEqual(file.id[:8], again.id[:8], seed)
                self.assertEqual(lease_state(file), lease_state(again), seed)
                self.assertEqual(b'%06d' % i, again.read(0, 6), seed)
                self.assertEqual(OK, again.lock(i, 3, unlock=True), seed)
                again.close()
            client.drop()
            self.server.alive()
        self.assertEqual([], self.server.lines('PANIC'))

    def test_zeroed_head(self):
        def zero(data):
            at = self.frames(data)[1]
            return data[:at] + bytes(48) + data[at + 48:]
        # The first may have had its newest state there.
        self.assertEqual([NAME_NOT_FOUND, NAME_NOT_FOUND, OK],
                         self.damage(zero))
        self.server.alive()

    def test_cut_off(self):
        self.assertEqual([OK, OK, NAME_NOT_FOUND], self.damage(
            lambda data: data[:self.frames(data)[2] + 60]))
        self.server.alive()

    def test_no_log_at_all(self):
        self.assertEqual([NAME_NOT_FOUND] * 3,
                         self.damage(lambda data: lab.pattern(5000)))
        self.assertEqual(1, len(self.server.lines('was set aside')))
        self.assertTrue(lab.glob.glob(self.store + '/*.damaged-*'))
        self.server.alive()

    def test_other_version(self):
        """It is not touched, and nothing new is promised."""
        def crc32c(data):
            crc = 0xFFFFFFFF
            for byte in data:
                crc ^= byte
                for _ in range(8):
                    crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
            return crc ^ 0xFFFFFFFF

        def newer(data):
            head = data[:8] + struct.pack('<I', 2) + data[12:28]
            return head + struct.pack('<I', crc32c(head)) + data[32:]
        self.assertEqual([NAME_NOT_FOUND] * 3, self.damage(newer))
        client = self.client()
        file = client.open('new', R | H | W)
        self.assertNotEqual(2, (granted(file) or (0, 0))[1])
        self.assertTrue(self.server.lines('another version of hvrs'))
        with open(self.store + '/handles.log', 'rb') as log:
            self.assertEqual(2, struct.unpack('<I', log.read(12)[8:])[0])

    # ---- requests ----------------------------------------------------------

    def status(self, client, contexts, name='x'):
        return client.tree.connection.wait(client.tree.create_send(
            name, contexts=contexts)).status

    def test_contexts_that_make_no_sense(self):
        client = self.client()
        guid = uuid.uuid4().bytes
        file = client.open('x')
        for contexts in (
                [(b'DH2Q', b'')], [(b'DH2Q', bytes(31))],
                [(b'DH2Q', bytes(33))],
                [dh2q(guid), (b'DHnQ', bytes(16))],
                [dh2q(guid), dh2c(file.id, guid)],
                [dh2c(file.id, guid), (b'DHnC', file.id)],
                [(b'DH2C', bytes(35))], [(b'DHnC', bytes(15))],
                [(b'DH2C', bytes(37))]):
            self.assertEqual(INVALID_PARAMETER,
                             self.status(client, contexts), contexts)
        for contexts in ([dh2c(bytes(16), guid)],
                         [dh2c(b'\xff' * 16, guid)],
                         [dh2c(file.id, guid)], [(b'DHnC', b'\xff' * 16)]):
            self.assertEqual(NAME_NOT_FOUND, self.status(client, contexts),
                             contexts)
        # Chains that point nowhere.
        tree = client.tree
        good = smb2.pack_contexts([dh2q(guid), (b'QFid', b'')])
        for at in range(0, len(good)):
            for value in (0, 1, 0x7F, 0xFF):
                bad = good[:at] + bytes([value]) + good[at + 1:]
                body = struct.pack('<HBBI8s8sIIIIIHHII', 57, 0, 0, 2,
                                   bytes(8), bytes(8), smb2.READ_WRITE, 0, 7,
                                   3, 0, 120, 2, 128, len(bad))
                reply = tree.connection.wait(tree.connection.send(
                    smb2.CREATE, body + b'y\0' + bytes(6) + bad,
                    tree.session.id, tree.id))
                if reply.status == OK:
                    smb2.File(tree, reply.body).close()
        self.server.alive()

    def test_more_contexts_in_a_reconnect(self):
        client = self.client()
        file = client.open('x', R | H | W)
        client.drop()
        client.connect()
        app = handles.app_instance(uuid.uuid4().bytes)
        contexts = [(b'MxAc', b''), dh2c(file.id, file.create_guid), app,
                    handles.lease(file.key, 7), (b'QFid', b'')]
        reply = client.tree.connection.wait(client.tree.create_send(
            'x', contexts=contexts, oplock=0xFF))
        self.assertEqual(OK, reply.status)
        again = smb2.File(client.tree, reply.body)
        self.assertEqual(file.id[:8], again.id[:8])
        self.assertEqual(R | H | W, lease_state(again))


if __name__ == '__main__':
    unittest.main()
