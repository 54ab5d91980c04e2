"""COMPARE AND WRITE beside plain writes of other clients, each with an smbd of
its own: nothing changes its sectors between the comparison and the write."""

import os
import random
import signal
import struct
import threading
import time
import unittest

import lab
import rsvd
import smb2

SECTOR = 512


class Compare(rsvd.Case):

    COUNT = 64			# sectors of one command
    LENGTH = COUNT * SECTOR
    AT = 3 * lab.MIB

    def setUp(self):
        super().setUp()
        self.a, self.b = self.disk(), self.other()
        self.process = rsvd.server_process(self.server, self.a)
        self.old, self.new, self.theirs = (
            lab.pattern(self.LENGTH, seed) for seed in (1, 2, 3))
        self.expect(0, self.a.write_status(self.AT, self.old))

    def compare_send(self, disk, old, new, at=AT):
        return disk.scsi_send(struct.pack('>BBQxxxBxx', 0x89, 0, at // SECTOR,
                                          len(old) // SECTOR), old + new)

    def stop_at(self, process, step, begin):
        """Has its process stop there; what begin() returned."""
        self.server.die_at('stop-' + step)
        sent = begin()
        deadline = time.monotonic() + 10
        while not self.server.has_died('stop-' + step) or \
                lab.state(process) != 'T':
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.001)
        return sent

    def stop_between(self):
        """A command that has compared, and has not written."""
        return self.stop_at(self.process, 'rsvd-compared',
                            lambda: self.compare_send(self.a, self.old,
                                                      self.new))

    def silent(self, disk, seconds=0.5):
        connection = disk.tree.connection
        connection.socket.settimeout(seconds)
        with self.assertRaises(OSError):
            reply = connection.receive()
            while reply.status == smb2.PENDING:
                reply = connection.receive()
        connection.socket.settimeout(60)

    def content(self, disk=None):
        return (disk or self.b).read_status(self.AT, self.LENGTH)[1]

    def test_a_plain_write_waits(self):
        sent = self.stop_between()
        mid = self.b.write_send(self.AT, self.theirs)
        self.silent(self.b)
        # Others are in nobody's way, and nor are reads.
        other = self.other()
        self.expect(0, other.write_status(self.AT + self.LENGTH,
                                          bytes(SECTOR)))
        self.expect(0, other.write_status(self.AT - SECTOR, bytes(SECTOR)))
        self.assert_bytes(self.old, self.content(other))
        os.kill(self.process, signal.SIGCONT)
        self.good(self.a.scsi_end(sent))
        self.expect(0, self.b.tree.connection.wait(mid).status)
        self.assert_bytes(self.theirs, self.content())

    def test_other_commands_that_change_its_sectors_wait(self):
        first = self.AT // SECTOR
        last = first + self.COUNT - 1
        for name, cdb, data, wanted in (
                ('WRITE(16)', struct.pack('>BBQIxx', 0x8A, 0, last, 1),
                 b'x' * SECTOR, b'x' * SECTOR),
                ('WRITE AND VERIFY', struct.pack('>BBQIxx', 0x8E, 0, last, 1),
                 b'y' * SECTOR, b'y' * SECTOR),
                ('WRITE SAME', struct.pack('>BBQIxx', 0x93, 0, last, 2),
                 b'z' * SECTOR, b'z' * SECTOR),
                ('UNMAP', [0x42, 0, 0, 0, 0, 0, 0, 0, 24], struct.pack(
                    '>HHIQII', 22, 16, 0, last, 1, 0), bytes(SECTOR))):
            with self.subTest(name):
                self.expect(0, self.a.write_status(self.AT, self.old))
                sent = self.stop_between()
                theirs = self.b.scsi_send(cdb, data)
                self.silent(self.b, 0.2)
                os.kill(self.process, signal.SIGCONT)
                self.good(self.a.scsi_end(sent))
                self.good(self.b.scsi_end(theirs))
                self.assert_bytes(self.new[:-SECTOR] + wanted,
                                  self.content(), name)

    def test_killed_in_between(self):
        self.stop_between()
        mid = self.b.write_send(self.AT, self.theirs)
        self.silent(self.b, 0.2)
        os.kill(self.process, signal.SIGKILL)
        begun = time.monotonic()
        self.expect(0, self.b.tree.connection.wait(mid).status)
        self.assertLess(time.monotonic() - begun, 3)
        self.assert_bytes(self.theirs, self.content())
        # And it can be done again.
        self.good(self.b.scsi_end(self.compare_send(self.b, self.theirs,
                                                    self.new)))

    def test_stopped_in_between(self):
        """It is ended: it might wake up and write what does not fit."""
        self.stop_between()
        self.expect(0, self.b.write_status(self.AT, self.theirs))
        self.assertEqual(1, len(self.server.lines('compares.*killed')))
        self.assert_bytes(self.theirs, self.content())

    def write_stopped(self):
        """A plain write of b that is on the disk and not over: to a block
        that is not there yet, whose data have been flushed."""
        at, process = 40 * lab.MIB, rsvd.server_process(self.server, self.b)
        mid = self.stop_at(process, 'rsvd-flushed',
                           lambda: self.b.write_send(at, self.theirs))
        return at, process, mid

    def test_a_write_under_way_is_waited_for(self):
        at, process, mid = self.write_stopped()
        sent = self.compare_send(self.a, self.theirs, self.new, at)
        self.silent(self.a)
        os.kill(process, signal.SIGCONT)
        self.good(self.a.scsi_end(sent))
        self.expect(0, self.b.tree.connection.wait(mid).status)
        self.assert_bytes(self.new, self.b.read_status(at, self.LENGTH)[1])

    def test_a_write_that_does_not_end(self):
        """Who compares is told to come back."""
        at, process, mid = self.write_stopped()
        result = self.a.scsi_end(self.compare_send(
            self.a, self.theirs, self.new, at))
        self.assertEqual((8, 0), (result.status, result.sense))
        os.kill(process, signal.SIGCONT)
        self.expect(0, self.b.tree.connection.wait(mid).status)
        self.good(self.a.scsi_end(self.compare_send(
            self.a, self.theirs, self.new, at)))

    def test_answers_that_the_client_reads_late(self):
        """smbd keeps requests until their answers are on the wire; that they
        go then is nothing to those that are under way."""
        connection = self.b.tree.connection
        for _ in range(30):		# credits
            self.expect(0, self.b.read_status(0, SECTOR)[0])
        sent = self.stop_between()
        reads = [self.b.read_send(0, 8 * lab.MIB) for _ in range(4)]
        time.sleep(0.5)
        writes = [self.b.write_send(self.AT + SECTOR * i, b'x' * SECTOR)
                  for i in range(self.COUNT)]
        time.sleep(0.3)
        for mid in reads:
            self.expect(0, connection.wait(mid).status)
        os.kill(self.process, signal.SIGCONT)
        self.good(self.a.scsi_end(sent))
        connection.socket.settimeout(10)
        for mid in writes:
            self.expect(0, connection.wait(mid).status)
        self.assert_bytes(b'x' * self.LENGTH, self.content())

    def test_by_chance(self):
        """Of a comparison that went well and a write at the same time the
        write is what stays: before it the comparison could not go well."""
        seed = random.randrange(1 << 30)
        print('seed %d ' % seed, end='', flush=True)
        mine, writer = random.Random(seed), None
        won = 0
        for i in range(400):
            self.expect(0, self.a.write_status(self.AT, self.old))
            status = []

            def write(delay=mine.random() * 0.001):
                time.sleep(delay)
                status.append(self.b.write_status(self.AT, self.theirs))
            writer = threading.Thread(target=write)
            writer.start()
            time.sleep(mine.random() * 0.001)
            result = self.a.scsi_end(self.compare_send(self.a, self.old,
                                                       self.new))
            writer.join(30)
            self.assertEqual([0], status)
            self.assertIn((result.status, result.sense),
                          ((0, 0), (2, 0x0E1D00)))
            won += result.status == 0
            self.assert_bytes(self.theirs, self.content(), 'round %d' % i)
        self.assertGreater(won, 20)
        self.assertLess(won, 380)


if __name__ == '__main__':
    unittest.main()
