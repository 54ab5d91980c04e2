"""Tokens of offload data transfer whose connection has ended."""

import glob
import os
import signal
import time

import fsctl
import lab
import odx
import smb2
from lab import MIB
from odx import INVALID_TOKEN, OFFLOAD_WRITE, PLACES, holders, write
from smb2 import OK


class Case(lab.Case):
    OLD, NEW = lab.pattern(4 * MIB, 1), lab.pattern(4 * MIB, 2)

    def setUp(self):
        self.idle = set(self.server.children())
        self.addCleanup(self.end_holders)
        super().setUp()
        self.make('from.vhdx', self.OLD)
        lab.settle(self.path('from.vhdx'))
        self.before = lab.pattern(4 * MIB, 3)
        self.make('to.vhdx', self.before)
        self.target = self.open('to.vhdx')
        time.sleep(0.02)

    def end_holders(self):
        """And those that come from connections that have just ended."""
        if all(connection.socket.fileno() == -1
               for connection in self.connections):
            self.assertTrue(lab.until(
                lambda: set(self.server.children()) <= self.idle))
        for pid in holders(self.server):
            lab.kill(pid)
        self.assertTrue(lab.until(lambda: not holders(self.server)))

    def source(self, writes=False, share=None):
        """In a connection of its own, and the process that serves it."""
        before = self.server.children()
        tree = self.connect(share)
        (self.pid,) = set(self.server.children()) - set(before)
        return tree.create(
            't/from.vhdx', disposition=smb2.OPEN,
            access=smb2.READ_WRITE if writes else smb2.READ_ONLY)

    def hang_up_and_wait(self, source):
        source.tree.connection.close()
        pid = self.pid
        self.assertTrue(lab.until(lambda: not lab.is_running(pid)))

    def token(self, writes=False, lifetime=0, share=None):
        """Of a connection that is no more."""
        source = self.source(writes, share)
        token = odx.get(source, 0, 4 * MIB, lifetime)[2]
        self.hang_up_and_wait(source)
        return token

    def copy(self, token):
        odx.put(self.target, 0, 4 * MIB, token)
        return self.target.read(0, 4 * MIB)

    def is_over(self, token):
        status, _ = self.target.fsctl(OFFLOAD_WRITE, write(0, MIB, token), 16)
        self.expect(INVALID_TOKEN, status)
        self.assert_bytes(self.before, self.target.read(0, 4 * MIB))

    def held(self):
        """Files of tokens that the holders have open."""
        found = set()
        for pid in holders(self.server):
            for path in glob.glob('/proc/%d/fd/*' % pid):
                try:
                    if os.readlink(path).startswith('/srv/'):
                        found.add(os.stat(path).st_ino)
                except FileNotFoundError:
                    pass
        return found


@lab.on_shares(*fsctl.ON_DISK)
class Alone(Case):

    def test_a_token_outlives_its_connection(self):
        for writes in (False, True):
            token = self.token(writes)
            self.assertEqual(1, len(holders(self.server)))
            self.assert_bytes(self.OLD, self.copy(token))
            if self.share != 'vmext4':
                lab.settle(self.path('to.vhdx'))
                self.assertEqual(4 * MIB, lab.shared(self.path('to.vhdx'), 0,
                                                     4 * MIB))
            self.end_holders()

    def test_the_source_changes_after_it(self):
        for writes in (False, True):
            token = self.token(writes)
            lab.put(self.path('from.vhdx'), 4096, self.NEW[:MIB])
            if self.share == 'vmext4':
                self.is_over(token)
            else:
                self.assert_bytes(self.OLD, self.copy(token))
                self.target.write(0, self.before)
            lab.put(self.path('from.vhdx'), 0, self.OLD)
            lab.settle(self.path('from.vhdx'))
            time.sleep(0.02)

    def test_every_way_of_parting(self):
        """As long as smbd ends in order."""
        def log_off(source):
            source.tree.session.logoff()

        def disconnect(source):
            source.tree.disconnect()

        def ask_to_end(_):
            os.kill(self.pid, signal.SIGTERM)

        for part in (log_off, disconnect, ask_to_end):
            source = self.source()
            token = odx.get(source, 0, 4 * MIB)[2]
            part(source)
            self.hang_up_and_wait(source)
            self.assert_bytes(self.OLD, self.copy(token))
            self.target.write(0, self.before)

    def test_a_crash_ends_it(self):
        source = self.source()
        token = odx.get(source, 0, 4 * MIB)[2]
        os.kill(self.pid, signal.SIGKILL)
        self.hang_up_and_wait(source)
        self.assertEqual(set(), holders(self.server))
        self.is_over(token)

    def test_the_holder_is_killed(self):
        for writes in (False, True):
            token = self.token(writes)
            self.end_holders()
            begun = time.monotonic()
            lab.put(self.path('from.vhdx'), 0, self.OLD)
            self.assertLess(time.monotonic() - begun, 5)
            self.is_over(token)

    def test_it_ends_with_its_last_token(self):
        source = self.source(True)
        first = odx.get(source, 0, MIB, 1500)[2]
        second = odx.get(source, MIB, MIB, 3000)[2]
        self.hang_up_and_wait(source)
        begun = time.monotonic()
        (pid,) = holders(self.server)
        odx.put(self.target, 0, MIB, first)
        time.sleep(1.7)
        self.assertEqual({pid}, holders(self.server))
        status, _ = self.target.fsctl(OFFLOAD_WRITE, write(0, MIB, first), 16)
        self.expect(INVALID_TOKEN, status)
        self.assertEqual(MIB, odx.put_once(self.target, MIB, MIB, second))
        self.assert_bytes(self.OLD[:2 * MIB], self.target.read(0, 2 * MIB))
        self.assertTrue(lab.until(lambda: not holders(self.server)))
        self.assertGreater(time.monotonic() - begun, 2)
        status, _ = self.target.fsctl(OFFLOAD_WRITE, write(0, MIB, second),
                                      16)
        self.expect(INVALID_TOKEN, status)

    def test_no_token_no_process(self):
        source = self.source()
        odx.get(source, 0, 4 * MIB, 200)
        time.sleep(0.4)
        self.hang_up_and_wait(source)
        self.assertEqual(set(), holders(self.server))

    def test_it_has_nothing_else_of_the_clients(self):
        tree = self.connect()
        source = self.source()
        files = [source.tree.create('t/other%d' % i) for i in range(3)]
        for file in files:
            file.write(0, b'x' * 4096)
        odx.get(source, 0, 4 * MIB)
        os.unlink(self.path('other0'))
        self.hang_up_and_wait(source)
        (pid,) = holders(self.server)
        links = [os.readlink(path) for path in
                 glob.glob('/proc/%d/fd/*' % pid)]
        self.assertEqual([], [link for link in links if 'other' in link])
        self.assertEqual([], [link for link in links
                              if link.startswith('socket:')])
        self.assertLessEqual(len(self.held()), 2)
        tree.create('t/other1', access=smb2.READ_WRITE, sharing=0).close()

    def test_it_ends_with_smbd(self):
        server = lab.Server(self.shares)
        self.addCleanup(server.stop)
        source = server.connect(self.share).create(
            't/from.vhdx', access=smb2.READ_ONLY, disposition=smb2.OPEN)
        token = odx.get(source, 0, 4 * MIB)[2]
        source.tree.connection.close()
        self.assertTrue(lab.until(lambda: holders(server) and
                              not holders(server) & set(server.children())))
        server.kill()
        self.assertTrue(lab.until(lambda: not holders(server)))
        server.start()
        self.target = server.connect(self.share).create('t/to.vhdx')
        self.is_over(token)


@lab.on_shares('vm', 'vmbtrfs')
class AloneLeased(Case):

    def shared(self):
        lab.settle(self.path('from.vhdx'))
        return lab.shared(self.path('from.vhdx'), 0, 4 * MIB)

    def test_the_clone_waits_still(self):
        token = self.token()
        self.assertEqual(0, self.shared())
        lab.put(self.path('from.vhdx'), 0, self.NEW)
        self.assert_bytes(self.NEW, lab.content(self.path('from.vhdx')))
        self.assert_bytes(self.OLD, self.copy(token))

    def test_a_writer_waits_for_the_clone_alone(self):
        self.token()
        begun = time.monotonic()
        lab.put(self.path('from.vhdx'), 0, self.NEW)
        self.assertLess(time.monotonic() - begun, 2)

    def test_nobody_waits_for_what_is_over(self):
        token = self.token(lifetime=600)
        self.assertTrue(lab.until(lambda: not holders(self.server)))
        lab.put(self.path('from.vhdx'), 0, self.NEW)
        self.assertEqual(0, self.shared())
        self.is_over(token)

    def test_a_writer_comes_while_the_connection_ends(self):
        """Whoever has the lease then, the clone is of before."""
        for round in range(30):
            lab.put(self.path('from.vhdx'), 0, self.OLD)
            source = self.source()
            token = odx.get(source, 0, 4 * MIB)[2]
            source.tree.connection.close()
            time.sleep(0.0005 * (round % 15))
            lab.put(self.path('from.vhdx'), 0, self.NEW)
            self.assert_bytes(self.OLD, self.copy(token))

    def test_a_copy_goes_on(self):
        count, stride = 3000, 128 << 10
        path = self.make('many.vhdx', size=count * stride)
        with open(path, 'r+b') as file:
            for i in range(count):
                file.seek(i * stride)
                file.write(i.to_bytes(4, 'little') * 1024)
        lab.settle(path)
        source = self.source().tree.create(
            't/many.vhdx', access=smb2.READ_ONLY, disposition=smb2.OPEN)
        token = odx.get(source, 0, count * stride)[2]
        target = self.open('copy.vhdx')
        target.set_size(count * stride)
        mid = target.fsctl_send(OFFLOAD_WRITE,
                                write(0, count * stride, token), 16)
        source.tree.connection.close()
        lab.put(path, 0, b'x' * 4096)
        self.expect(OK, target.tree.connection.wait(mid).status)
        odx.put(target, 0, count * stride, token)
        with open(self.path('copy.vhdx'), 'rb') as file:
            for i in range(count):
                file.seek(i * stride)
                self.assertEqual(i.to_bytes(4, 'little') * 1024,
                                 file.read(4096))


class AloneLimits(Case):
    shares = dict(fsctl.SHARES, few=(
        lab.DIRECTORIES['vm'],
        ['vfs objects = hvrs', 'hvrs:offload tokens per user = 3']))

    def test_the_limits_hold(self):
        token = self.token(share='few')
        source = self.source(share='few')
        for _ in range(2):
            odx.get(source, 0, MIB)
        self.assertEqual(1, len(holders(self.server)))
        self.assert_bytes(self.OLD, self.copy(token))
        odx.get(source, 0, MIB)
        self.target.write(0, self.before)
        self.is_over(token)
        self.assertTrue(lab.until(lambda: not holders(self.server)))

    def test_they_are_not_many(self):
        tokens = [self.token() for _ in range(PLACES + 2)]
        self.assertEqual(PLACES, len(holders(self.server)))
        good = [self.target.fsctl(OFFLOAD_WRITE, write(0, MIB, token), 16)[0]
                for token in tokens]
        self.assertEqual([OK] * PLACES + [INVALID_TOKEN] * 2, good)
        # A place that is free again is taken again.
        os.kill(holders(self.server).pop(), signal.SIGKILL)
        self.assertTrue(lab.until(
            lambda: len(holders(self.server)) == PLACES - 1))
        self.assert_bytes(self.OLD, self.copy(self.token()))

    def test_nothing_is_left_on_disk(self):
        disk = lab.LoopDisk(size=600 * MIB)
        self.addCleanup(disk.remove)
        server = lab.Server({'s': (disk.share, ['vfs objects = hvrs'])})
        self.addCleanup(server.stop)
        source = server.connect('s').create('from')
        source.write(0, lab.pattern(64 * MIB, 1))
        source.flush()
        odx.get(source, 0, 64 * MIB)
        source.write(0, lab.pattern(64 * MIB, 2))
        source.flush()
        source.tree.connection.close()
        self.assertTrue(lab.until(lambda: holders(server) and
                              not holders(server) & set(server.children())))
        held = disk.free()
        for pid in holders(server):
            os.kill(pid, signal.SIGKILL)
        self.assertTrue(lab.until(lambda: disk.free() > held + 60 * MIB))
        self.assertEqual(['from'], os.listdir(disk.share))


if __name__ == '__main__':
    lab.unittest.main()
