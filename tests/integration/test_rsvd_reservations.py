"""Reservations between clients that each have an smbd process: conflicts of
READ and WRITE, attentions, APTPL, and the fence: after PREEMPT AND ABORT not
one byte of the loser reaches the disk."""

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
from rsvd import (ABORT, CLEAR, CONFLICT, EA, EA_RO, IGNORE, PREEMPT, RELEASE,
                  RESERVE, WE, WE_AR, WE_RO)

SECTOR = 512


class Conflicts(rsvd.Case):

    def pair(self, kind):
        a, b = self.disk(), self.other()
        self.good(a.pr_out(IGNORE, 0, 0, 1))
        self.good(a.pr_out(RESERVE, kind, 1))
        return a, b

    def test_read_and_write_by_type(self):
        for kind, reads, writes, joined in (
                (WE, 0, CONFLICT, False), (EA, CONFLICT, CONFLICT, False),
                (WE_RO, 0, CONFLICT, True), (EA_RO, CONFLICT, CONFLICT, True),
                (WE_AR, 0, CONFLICT, True)):
            with self.subTest(type=kind):
                a, b = self.pair(kind)
                self.expect(0, a.write_status(0, bytes(SECTOR)))
                self.expect(reads, b.read_status(0, SECTOR)[0])
                self.expect(writes, b.write_status(0, bytes(SECTOR)))
                self.conflict(b.scsi([0x2A, 0, 0, 0, 0, 0, 0, 0, 1],
                                     bytes(SECTOR)))
                self.good(b.pr_out(IGNORE, 0, 0, 2))
                self.expect(0 if joined else reads,
                            b.read_status(0, SECTOR)[0])
                self.expect(0 if joined else CONFLICT,
                            b.write_status(0, bytes(SECTOR)))
                a.close()
                b.close()

    def test_two_opens_of_one_initiator_are_one(self):
        a, b = self.pair(WE)
        again = self.disk(tree=self.connect(), initiator=a.initiator)
        self.expect(0, again.write_status(0, bytes(SECTOR)))
        self.assertEqual((1, [1]), again.keys())

    def test_attentions_come_once_and_first(self):
        a, b = self.disk(), self.other()
        self.good(a.pr_out(IGNORE, 0, 0, 1))
        self.good(b.pr_out(IGNORE, 0, 0, 2))
        self.good(a.pr_out(RESERVE, WE_RO, 1))
        self.good(b.pr_out(PREEMPT, WE_RO, 2, 1))
        self.expect(rsvd.REG_PREEMPTED, a.write_status(0, bytes(SECTOR)))
        self.expect(CONFLICT, a.write_status(0, bytes(SECTOR)))
        self.expect(0, a.read_status(0, SECTOR)[0])

    def test_attention_of_a_release(self):
        a, b = self.disk(), self.other()
        self.good(a.pr_out(IGNORE, 0, 0, 1))
        self.good(b.pr_out(IGNORE, 0, 0, 2))
        self.good(a.pr_out(RESERVE, WE_RO, 1))
        self.good(a.pr_out(RELEASE, WE_RO, 1))
        self.good(b.scsi([0x12, 0, 0, 0, 96], room=96))
        self.sense(0x062A04, b.scsi([0]))
        self.good(b.scsi([0]))

    def test_attention_of_clear_by_read(self):
        a, b = self.disk(), self.other()
        self.good(a.pr_out(IGNORE, 0, 0, 1))
        self.good(b.pr_out(IGNORE, 0, 0, 2))
        self.good(a.pr_out(CLEAR, 0, 1))
        self.expect(rsvd.RES_PREEMPTED, b.read_status(0, SECTOR)[0])
        self.expect(0, b.read_status(0, SECTOR)[0])
        self.assertEqual((3, []), b.keys())

    def test_request_sense_takes_the_attention(self):
        a, b = self.disk(), self.other()
        self.good(a.pr_out(IGNORE, 0, 0, 1))
        self.good(b.pr_out(IGNORE, 0, 0, 2))
        self.good(a.pr_out(CLEAR, 0, 1))
        got = self.good(b.scsi([3, 0, 0, 0, 18], room=18)).data
        self.assertEqual((6, 0x2A, 3), (got[2], got[12], got[13]))
        self.expect(0, b.read_status(0, SECTOR)[0])

    def test_what_clustering_does(self):
        """Register, read, reserve, defend, challenge, take over."""
        nodes = [self.disk(), self.other(), self.other()]
        for i, node in enumerate(nodes):
            self.good(node.pr_out(IGNORE, 0, 0, 0xA0 + i))
        self.assertEqual((3, [0xA0, 0xA1, 0xA2]), nodes[2].keys())
        self.good(nodes[0].pr_out(RESERVE, WE_RO, 0xA0))
        self.good(nodes[0].pr_out(RESERVE, WE_RO, 0xA0))
        self.conflict(nodes[1].pr_out(RESERVE, WE_RO, 0xA1))
        self.assertEqual((0xA0, WE_RO), nodes[1].reservation())
        outsider = self.other()
        self.expect(CONFLICT, outsider.write_status(0, bytes(SECTOR)))
        self.conflict(outsider.scsi([0x42, 0, 0, 0, 0, 0, 0, 0, 24],
                                    bytes(24)))
        self.good(nodes[1].pr_out(PREEMPT, WE_RO, 0xA1, 0xA0))
        self.assertEqual((0xA1, WE_RO), nodes[2].reservation())
        self.assertEqual((4, [0xA1, 0xA2]), nodes[2].keys())
        data = nodes[2].pr_in(2).data
        self.assertEqual(bytes([0, 8, 0x15, 0x80, 0xEA, 1, 0, 0]), data)
        self.assertEqual(8 + 2 * 48, len(nodes[2].pr_in(3).data))


class Lasting(rsvd.Case):

    def test_aptpl_outlives_the_last_close(self):
        a = self.disk()
        self.good(a.pr_out(IGNORE, 0, 0, 1, aptpl=1))
        self.good(a.pr_out(RESERVE, WE_RO, 1))
        a.close()
        b = self.other()
        self.assertEqual((0, [1]), b.keys())
        self.assertEqual((1, WE_RO), b.reservation())
        self.expect(CONFLICT, b.write_status(0, bytes(SECTOR)))
        again = self.disk(initiator=a.initiator)
        self.expect(0, again.write_status(0, bytes(SECTOR)))

    def test_aptpl_outlives_smbd_and_the_lock_directory(self):
        a = self.disk()
        self.good(a.pr_out(IGNORE, 0, 0, 1, aptpl=1))
        self.good(a.pr_out(RESERVE, EA, 1))
        self.server.kill()
        lab.run('sh', '-c', 'rm -rf %s/lock/hvrs %s/lock/hvrs_rsvd_live.tdb' %
                (self.server.directory, self.server.directory))
        self.server.start()
        b = self.other()
        self.assertEqual((1, EA), b.reservation())
        self.expect(CONFLICT, b.read_status(0, SECTOR)[0])

    def test_aptpl_zero_forgets(self):
        a = self.disk()
        self.good(a.pr_out(IGNORE, 0, 0, 1, aptpl=1))
        self.good(a.pr_out(IGNORE, 0, 0, 2, aptpl=0))
        self.good(a.pr_out(RESERVE, WE, 2))
        a.close()
        b = self.other()
        self.assertEqual((0, []), b.keys())

    def test_a_killed_smbd_loses_its_opens(self):
        a = self.other()
        self.good(a.pr_out(IGNORE, 0, 0, 1))
        self.good(a.pr_out(RESERVE, WE, 1))
        b = self.disk()
        os.kill(rsvd.server_process(self.server, a), signal.SIGKILL)
        # The registration is the initiator's, and the disk is attached.
        self.expect(CONFLICT, b.write_status(0, bytes(SECTOR)))
        self.assertEqual((1, [1]), b.keys())
        b.close()
        c = self.other()
        self.assertEqual((0, []), c.keys())


class Fence(rsvd.Case):
    """The loser's writes are under way when it loses."""

    LENGTH = 8 * lab.MIB
    PIECE = 64 * lab.KIB

    def setUp(self):
        super().setUp()
        self.winner, self.loser = self.disk(), self.other()
        self.good(self.loser.pr_out(IGNORE, 0, 0, 1))
        self.good(self.loser.pr_out(RESERVE, WE_RO, 1))
        self.good(self.winner.pr_out(IGNORE, 0, 0, 2))
        self.process = rsvd.server_process(self.server, self.loser)

    def flood(self, stop):
        """Writes of the loser without end, from a thread."""
        data = b'L' * self.PIECE
        at = 0
        try:
            while not stop.is_set():
                mids = []
                for _ in range(16):
                    mids.append(self.loser.write_send(at, data))
                    at = (at + self.PIECE) % self.LENGTH
                for mid in mids:
                    self.loser.tree.connection.wait(mid)
        except OSError:
            pass

    def take(self, action=ABORT):
        begun = time.monotonic()
        self.good(self.winner.pr_out(action, WE_RO, 2, 1))
        return time.monotonic() - begun

    def fill(self):
        data = b'W' * lab.MIB
        for at in range(0, self.LENGTH, lab.MIB):
            self.expect(0, self.winner.write_status(at, data))

    def untouched(self):
        for at in range(0, self.LENGTH, lab.MIB):
            self.assert_bytes(b'W' * lab.MIB,
                              self.winner.read_status(at, lab.MIB)[1])

    def round(self, action, stopped):
        stop = threading.Event()
        thread = threading.Thread(target=self.flood, args=(stop,))
        thread.start()
        time.sleep(0.05 + random.random() * 0.1)
        if stopped:
            os.kill(self.process, signal.SIGSTOP)
        try:
            took = self.take(action)
            self.fill()
        finally:
            if stopped:
                try:
                    os.kill(self.process, signal.SIGCONT)
                except ProcessLookupError:
                    pass
        time.sleep(0.3)
        stop.set()
        thread.join(30)
        self.assertFalse(thread.is_alive())
        self.untouched()
        return took

    def test_preempt_of_a_writer(self):
        self.assertLess(self.round(PREEMPT, False), 3)

    def test_preempt_and_abort_of_a_writer(self):
        self.assertLess(self.round(ABORT, False), 3)

    def test_preempt_and_abort_of_a_stopped_writer(self):
        took = self.round(ABORT, True)
        if took > 1:
            self.assertEqual(1, len(self.server.lines('killed')))
        self.server.alive()

    def test_a_stopped_process_without_writes_is_left_alone(self):
        os.kill(self.process, signal.SIGSTOP)
        mids = [self.loser.write_send(0, b'L' * self.PIECE)
                for _ in range(8)]
        self.assertLess(self.take(), 1)
        self.fill()
        os.kill(self.process, signal.SIGCONT)
        got = [self.loser.tree.connection.wait(mid).status for mid in mids]
        self.assertEqual([rsvd.REG_PREEMPTED] + [CONFLICT] * 7, got)
        self.untouched()

    def test_reserve_waits_for_strangers_too(self):
        """Who never registered loses its writes to a new reservation."""
        self.good(self.loser.pr_out(CLEAR, 0, 1))
        self.expect(rsvd.RES_PREEMPTED, self.winner.read_status(0, 512)[0])
        self.good(self.winner.pr_out(IGNORE, 0, 0, 2))
        stop = threading.Event()
        thread = threading.Thread(target=self.flood, args=(stop,))
        thread.start()
        time.sleep(0.1)
        self.good(self.winner.pr_out(RESERVE, WE, 2))
        self.fill()
        time.sleep(0.2)
        stop.set()
        thread.join(30)
        self.untouched()


class Dead(rsvd.Case):
    """The loser's process ends in the middle of a write that takes a new block:
    after the first flush only its data are on disk, after the second the log
    says that they count, and the table does not know yet.  Either way the
    answer to PREEMPT AND ABORT settles it."""

    AT, PIECE = 8 * lab.MIB, 64 * lab.KIB
    DATA = b'L' * PIECE

    def setUp(self):
        super().setUp()
        self.winner, self.loser = self.disk(), self.other()
        self.good(self.loser.pr_out(IGNORE, 0, 0, 1))
        self.good(self.loser.pr_out(RESERVE, WE_RO, 1))
        self.good(self.winner.pr_out(IGNORE, 0, 0, 2))
        # The first change of a session has flushes of its own.
        self.expect(0, self.loser.write_status(0, self.DATA))
        self.expect(0, self.winner.flush())
        self.process = rsvd.server_process(self.server, self.loser)

    def stop_in_write(self, flushes):
        """A write of the loser, its process stopped after so many flushes."""
        for i in range(flushes):
            self.server.die_at('stop-rsvd-flushed')
            if i == 0:
                self.loser.write_send(self.AT, self.DATA)
            else:
                os.kill(self.process, signal.SIGCONT)
            deadline = time.monotonic() + 10
            while not self.server.has_died('stop-rsvd-flushed') or \
                    lab.state(self.process) != 'T':
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.001)

    def settled(self, wanted):
        """What the winner reads stays, though others change the table."""
        self.assert_bytes(wanted,
                          self.winner.read_status(self.AT, self.PIECE)[1])
        other = self.other()
        self.good(other.pr_out(IGNORE, 0, 0, 3))
        for disk, at in ((self.winner, 20), (other, 30)):
            self.expect(0, disk.write_status(at * lab.MIB, b'W' * 4096))
            self.assert_bytes(wanted, disk.read_status(self.AT,
                                                       self.PIECE)[1])
        other.close()
        self.winner.close()
        lab.run('qemu-img', 'check', self.image)
        again = self.disk()
        self.assert_bytes(wanted, again.read_status(self.AT, self.PIECE)[1])

    def test_killed_before_the_log_is_written(self):
        self.stop_in_write(1)
        os.kill(self.process, signal.SIGKILL)
        self.good(self.winner.pr_out(ABORT, WE_RO, 2, 1))
        self.settled(bytes(self.PIECE))

    def test_killed_after_the_log_is_written(self):
        self.stop_in_write(2)
        os.kill(self.process, signal.SIGKILL)
        self.good(self.winner.pr_out(ABORT, WE_RO, 2, 1))
        self.settled(self.DATA)

    def test_stopped_after_the_log_is_written(self):
        """The server ends what does not end, and settles that too."""
        self.stop_in_write(2)
        self.good(self.winner.pr_out(ABORT, WE_RO, 2, 1))
        self.assertEqual(1, len(self.server.lines('killed')))
        self.settled(self.DATA)


class StuckDisk(rsvd.Case):
    """The loser's write hangs in the kernel: nobody is answered before it is
    over, as killing the process does not end it."""

    def setUp(self):
        self.loop = lab.LoopDisk()
        self.addCleanup(self.loop.remove)
        type(self).shares = None
        self.server = lab.Server({'vm': (self.loop.share, [
            'vfs objects = hvrs', 'hvrs:shared disks = yes'])})
        self.addCleanup(self.server.stop)
        super().setUp()

    @classmethod
    def setUpClass(cls):
        pass

    def test_a_write_that_hangs(self):
        winner, loser = self.disk(), self.other()
        for disk, key in ((loser, 1), (winner, 2)):
            self.good(disk.pr_out(IGNORE, 0, 0, key))
        self.good(loser.pr_out(RESERVE, WE_RO, 1))
        self.expect(0, loser.write_status(0, b'L' * 4096))
        self.loop.freeze()
        try:
            loser.write_send(0, b'M' * 4096)
            time.sleep(0.2)
            sent = winner.pr_out_send(ABORT, WE_RO, 2, 1)
            winner.tree.connection.socket.settimeout(5)
            with self.assertRaises(OSError):
                winner.scsi_end(sent)
        finally:
            self.loop.thaw()
        winner.tree.connection.socket.settimeout(60)
        self.good(winner.scsi_end(sent))
        self.expect(0, winner.write_status(0, b'W' * 4096))
        time.sleep(0.3)
        self.assert_bytes(b'W' * 4096, winner.read_status(0, 4096)[1])
        self.assertEqual((2, WE_RO), winner.reservation())


if __name__ == '__main__':
    unittest.main()
