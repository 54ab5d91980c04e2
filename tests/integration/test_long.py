"""Zeroing, trimming and cloning a terabyte: other requests of the same
connection are answered meanwhile; CANCEL, a lost connection and kill -9 in
the middle leave the server alive and the file consistent.

The file system is frozen while such a request runs: it then stays in its
first piece for as long as the test wants, however fast the disk is."""

import struct
import time
import unittest

import fsctl
import lab
import smb2
from smb2 import CANCELLED, OK, PENDING

SIZE = 4 * lab.TIB
DATA = lab.pattern(lab.MIB, 11)
# Behind the first piece of a request, so that a cancelled one leaves it.
PLACES = (0, lab.TIB, SIZE - lab.MIB)
EXTENTS = 70        # more than what is done in place


class Long(lab.Case):
    share = 'disk'

    @classmethod
    def setUpClass(cls):
        cls.disk = lab.LoopDisk()
        cls.addClassCleanup(cls.disk.remove)
        cls.shares = {'disk': (cls.disk.share, ['vfs objects = hvrs'])}
        super().setUpClass()

    def setUp(self):
        super().setUp()
        self.addCleanup(self.disk.thaw)
        self.file = self.disk_file('disk.vhdx')

    def disk_file(self, name):
        """A file whose blocks are on disk, open and written to already: no
        reply of its needs the disk."""
        path = self.make(name, size=SIZE)
        for at in PLACES:
            lab.put(path, at, DATA)
        for i in range(EXTENTS):
            lab.put(path, 2 * lab.TIB + i * lab.MIB, b'x')
        file = self.open(name)
        file.write(0, DATA)
        lab.settle(path)
        self.assert_bytes(DATA, file.read(lab.TIB, lab.MIB))
        return file

    def requests(self):
        source = self.disk_file('source.vhdx')
        return {
            'zero': (fsctl.SET_ZERO_DATA, fsctl.zero(0, SIZE)),
            'trim': (fsctl.FILE_LEVEL_TRIM, fsctl.trim((0, SIZE))),
            'clone': (fsctl.DUPLICATE_EXTENTS,
                      fsctl.clone(source, 0, 0, SIZE)),
            'clone_ex': (fsctl.DUPLICATE_EXTENTS_EX,
                         fsctl.clone_ex(source, 0, 0, SIZE)),
        }

    def begin(self, name):
        """Sends a request that cannot end before the disk thaws, and waits
        for its interim reply."""
        code, data = self.requests()[name]
        self.disk.freeze()
        mid = self.file.fsctl_send(code, data)
        reply = self.tree.connection.receive()
        self.assertEqual((mid, PENDING), (reply.mid, reply.status))
        return mid

    def meanwhile(self, name):
        mid = self.begin(name)
        for _ in range(3):
            echo = self.tree.connection.echo()
            self.expect(OK, self.tree.connection.wait(echo).status)
            read = self.file.read_send(lab.TIB, 65536)
            reply = self.tree.connection.wait(read)
            self.expect(OK, reply.status)
            self.assert_bytes(DATA[:65536], reply.body[16:])
        status, _ = self.file.info(5)
        self.expect(OK, status)
        # All of these came first: the long one is still to come.
        self.assertEqual([], [reply for reply in self.tree.connection.waiting
                              if reply.mid == mid])
        self.disk.thaw()
        self.expect(OK, self.tree.connection.wait(mid).status)
        self.check(name)

    def check(self, name):
        path = self.path('disk.vhdx')
        for at in PLACES:
            self.assert_bytes(DATA if 'clone' in name else bytes(lab.MIB),
                              lab.content(path, at, lab.MIB))
        if 'clone' not in name:
            self.assertEqual(0, lab.mapped(path, 0, SIZE))

    def test_zero_lets_others_pass(self):
        self.meanwhile('zero')

    def test_trim_lets_others_pass(self):
        self.meanwhile('trim')

    def test_clone_lets_others_pass(self):
        self.meanwhile('clone')

    def test_clone_ex_lets_others_pass(self):
        self.meanwhile('clone_ex')

    def whole_or_zero(self):
        """Every place holds what it held, or zeros; its last one is old."""
        path = self.path('disk.vhdx')
        for at in PLACES:
            found = lab.content(path, at, lab.MIB)
            self.assertIn(found, (DATA, bytes(lab.MIB)), 'at %d' % at)
        self.assert_bytes(DATA, lab.content(path, PLACES[-1], lab.MIB))
        self.assertEqual(SIZE, lab.os.stat(path).st_size)

    def cancel(self, name):
        mid = self.begin(name)
        self.tree.connection.cancel(mid, self.tree.session.id)
        # Read in order: the cancel is seen when this echo is answered.
        echo = self.tree.connection.echo()
        self.tree.connection.wait(echo)
        self.disk.thaw()
        self.expect(CANCELLED, self.tree.connection.wait(mid).status)
        self.whole_or_zero()
        self.assert_bytes(DATA, self.file.read(PLACES[-1], lab.MIB))
        self.expect_fsctl(OK, self.file, fsctl.SET_ZERO_DATA,
                          fsctl.zero(0, SIZE))
        self.check('zero')
        self.server.alive()

    def test_cancel_of_zero(self):
        self.cancel('zero')

    def test_cancel_of_trim(self):
        self.cancel('trim')

    def test_cancel_of_clone(self):
        mid = self.begin('clone')
        self.tree.connection.cancel(mid, self.tree.session.id)
        self.tree.connection.wait(self.tree.connection.echo())
        self.disk.thaw()
        self.expect(CANCELLED, self.tree.connection.wait(mid).status)
        for at in PLACES:
            self.assert_bytes(DATA, lab.content(self.path('disk.vhdx'), at,
                                                lab.MIB))
        self.server.alive()

    def gone(self, pids):
        for _ in range(400):
            if not any(pid in self.server.children() for pid in pids):
                return
            time.sleep(0.05)
        self.fail('the process of a lost connection does not end')

    def child(self):
        """The process that serves this test's connection."""
        before = set(self.server.children())
        tree = self.connect()
        (new,) = [pid for pid in self.server.children() if pid not in before]
        self.tree = tree
        self.file = self.open()
        self.file.write(0, DATA)
        lab.settle(self.path('disk.vhdx'))
        return new

    def lost(self, end, name):
        self.file.close()
        pid = self.child()
        self.begin(name)
        end(pid)
        self.disk.thaw()
        self.gone([pid])
        self.whole_or_zero()
        self.tree = self.connect()
        self.file = self.open()
        self.expect_fsctl(OK, self.file, fsctl.SET_ZERO_DATA,
                          fsctl.zero(0, SIZE))
        self.check('zero')
        self.server.alive()

    def test_connection_lost_during_zero(self):
        self.lost(lambda pid: self.tree.connection.close(), 'zero')

    def test_connection_lost_during_trim(self):
        self.lost(lambda pid: self.tree.connection.close(), 'trim')

    def test_kill_during_zero(self):
        self.lost(lab.kill, 'zero')

    def test_kill_of_all_during_zero(self):
        self.begin('zero')
        pids = [self.server.process.pid] + self.server.children()
        for pid in pids:
            lab.kill(pid)
        self.disk.thaw()
        self.server.process.wait(30)
        for _ in range(400):
            if not any(lab.is_running(pid) for pid in pids[1:]):
                break
            time.sleep(0.05)
        self.whole_or_zero()
        self.server.start()
        self.tree = self.connect()
        self.file = self.open()
        self.expect_fsctl(OK, self.file, fsctl.SET_ZERO_DATA,
                          fsctl.zero(0, SIZE))
        self.check('zero')
        self.server.alive()

    def test_kill_during_clone(self):
        """What is cloned already is new, the rest old: here the same."""
        self.file.close()
        pid = self.child()
        self.begin('clone')
        lab.kill(pid)
        self.disk.thaw()
        self.gone([pid])
        for at in PLACES:
            for name in ('disk.vhdx', 'source.vhdx'):
                self.assert_bytes(DATA, lab.content(self.path(name), at,
                                                    lab.MIB))
        self.server.alive()

    def test_logoff_during_zero(self):
        """The end of the session ends the request, not the server."""
        mid = self.begin('zero')
        body = struct.pack('<HH', 4, 0)
        self.tree.connection.send(smb2.LOGOFF, body, self.tree.session.id)
        self.disk.thaw()
        self.tree.connection.wait(mid)
        self.server.alive()
        path = self.path('disk.vhdx')
        for at in PLACES:
            self.assertIn(lab.content(path, at, lab.MIB),
                          (DATA, bytes(lab.MIB)))

    def test_close_during_zero(self):
        mid = self.begin('zero')
        body = struct.pack('<HHI16s', 24, 0, 0, self.file.id)
        close = self.tree.send(smb2.CLOSE, body)
        self.disk.thaw()
        self.tree.connection.wait(mid)
        self.expect(OK, self.tree.connection.wait(close).status)
        self.server.alive()

    def test_source_closed_during_clone(self):
        code, data = self.requests()['clone']
        source = self.open('source.vhdx', access=smb2.READ_ONLY)
        data = fsctl.clone(source, 0, 0, SIZE)
        self.disk.freeze()
        mid = self.file.fsctl_send(code, data)
        reply = self.tree.connection.receive()
        self.assertEqual((mid, PENDING), (reply.mid, reply.status))
        body = struct.pack('<HHI16s', 24, 0, 0, source.id)
        close = self.tree.send(smb2.CLOSE, body)
        self.disk.thaw()
        self.assertIn(self.tree.connection.wait(mid).status, (OK, CANCELLED))
        self.expect(OK, self.tree.connection.wait(close).status)
        self.check('clone')
        self.server.alive()

    def descriptors(self):
        return sum(len(lab.os.listdir('/proc/%d/fd' % pid))
                   for pid in self.server.children())

    def test_no_descriptor_stays_behind(self):
        """Requests in threads, in place, refused and cancelled."""
        requests = self.requests()
        del requests['zero']		# the content of the others is checked
        requests['small'] = (fsctl.SET_ZERO_DATA, fsctl.zero(0, 4096))
        requests['atomic'] = (
            fsctl.DUPLICATE_EXTENTS_EX,
            fsctl.clone_ex(self.open('source.vhdx'), 0, 0, SIZE, 1))
        requests['refused'] = (fsctl.SET_ZERO_DATA, fsctl.zero(2, 1))
        for request in requests.values():
            self.file.fsctl(*request)
        before = self.descriptors()
        for _ in range(20):
            for request in requests.values():
                self.file.fsctl(*request)
        self.assertEqual(before, self.descriptors())

    def test_several_at_once(self):
        """More of them than there are threads in a pool: all are answered."""
        self.disk.freeze()
        zero = fsctl.zero(0, SIZE)
        mids = [self.file.fsctl_send(fsctl.SET_ZERO_DATA, zero)
                for _ in range(60)]
        self.expect(OK, self.tree.connection.wait(
            self.tree.connection.echo()).status)
        self.disk.thaw()
        for mid in mids:
            self.expect(OK, self.tree.connection.wait(mid).status)
        self.check('zero')


if __name__ == '__main__':
    unittest.main()
