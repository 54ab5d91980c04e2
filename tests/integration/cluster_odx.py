"""Offload data transfer on a cluster whose file system is coherent; see
cluster.py."""

import json
import os
import random
import shutil
import time
import unittest

import lab
import odx
import smb2
from cluster import ADDRESS, cluster, on
from lab import KIB, MIB
from odx import INVALID_TOKEN, OFFLOAD_READ, OFFLOAD_WRITE, read, write
from smb2 import OK

DIRECTORY = '/srv/shared/vm'
FOLDER = DIRECTORY + '/.hvrs-tokens'
# A token's time, what clocks may differ by, and how often is looked.
GONE = 30


class Odx(unittest.TestCase):
    OLD, NEW = lab.pattern(4 * MIB, 1), lab.pattern(4 * MIB, 2)
    BEFORE = lab.pattern(4 * MIB, 3)

    def setUp(self):
        # Tokens of other tests live on.
        self.others = set()
        self.others = self.names()
        self.make('from.vhdx', self.OLD)
        self.make('to.vhdx', self.BEFORE)
        lab.settle(self.path('from.vhdx'))
        self.source = self.open(0, 'from.vhdx')
        self.target = self.open(1, 'to.vhdx')

    def path(self, name):
        return '%s/%s' % (DIRECTORY, name)

    def make(self, name, data):
        with open(self.path(name), 'wb') as out:
            out.write(data)
        shutil.chown(self.path(name), 'hvrs', 'hvrs')
        os.chmod(self.path(name), 0o666)
        self.addCleanup(os.unlink, self.path(name))

    def open(self, node, name, user='hvrs', share='coherent'):
        connection = smb2.Connection(445, ADDRESS[node])
        self.addCleanup(connection.close)
        tree = smb2.Tree(smb2.Session(connection, user, user), share)
        return tree.create(name)

    def names(self):
        """Of the pins of this test."""
        return set(os.listdir(FOLDER) if os.path.exists(FOLDER) else []) - \
            self.others

    def nothing_is_left(self):
        self.assertTrue(lab.until(lambda: not self.names(), GONE), self.names())

    def is_old(self, token, target=None):
        target = target or self.target
        odx.put(target, 0, 4 * MIB, token)
        self.assertTrue(self.OLD == target.read(0, 4 * MIB))

    def is_over(self, token, target=None):
        status, _ = (target or self.target).fsctl(
            OFFLOAD_WRITE, write(0, MIB, token), 16)
        self.assertEqual(hex(INVALID_TOKEN), hex(status))
        self.assertTrue(self.BEFORE == self.target.read(0, 4 * MIB))

    def test_a_token_is_of_all_nodes(self):
        begun = time.monotonic()
        token = odx.get(self.source, 0, 4 * MIB)[2]
        print('\na read: %.1f ms' % ((time.monotonic() - begun) * 1000))
        self.open(2, 'from.vhdx').write(0, self.NEW)
        lab.put(self.path('from.vhdx'), 0, self.NEW)
        begun = time.monotonic()
        self.is_old(token)
        print('a write: %.1f ms' % ((time.monotonic() - begun) * 1000))
        lab.settle(self.path('to.vhdx'))
        self.assertEqual(4 * MIB, lab.shared(self.path('to.vhdx'), 0,
                                             4 * MIB))
        self.assertEqual(0, lab.shared(self.path('from.vhdx'), 0, 4 * MIB))

    def test_parts_of_it(self):
        token = odx.get(self.source, 64 * KIB, MIB)[2]
        self.source.write(0, self.NEW)
        for start, at, length in ((0, 0, MIB), (512, 2 * MIB + 512, 4096),
                                  (512 * KIB, 3 * MIB, 512 * KIB)):
            odx.put(self.target, at, length, token, start)
            start += 64 * KIB
            self.assertTrue(self.OLD[start:start + length] ==
                            self.target.read(at, length))

    def test_one_is_another_for_each_generation(self):
        tokens = []
        for data in (self.OLD, self.NEW, self.OLD, self.NEW):
            self.open(2, 'from.vhdx').write(0, data)
            tokens.append((data, odx.get(self.source, 0, 4 * MIB)[2]))
        for data, token in tokens:
            odx.put(self.target, 0, 4 * MIB, token)
            self.assertTrue(data == self.target.read(0, 4 * MIB))

    def test_it_is_its_users_alone(self):
        token = odx.get(self.source, 0, 4 * MIB)[2]
        self.is_over(token, self.open(1, 'to.vhdx', 'hvrsadmin'))
        altered = bytearray(token)
        altered[30] ^= 1
        self.is_over(bytes(altered))
        self.is_old(token)

    def test_its_time_is_over_everywhere(self):
        token = odx.get(self.source, 0, 4 * MIB, lifetime=700)[2]
        self.is_old(token)
        self.target.write(0, self.BEFORE)
        time.sleep(1)
        self.is_over(token)
        self.nothing_is_left()

    def test_who_gave_it_ends(self):
        """In order, or killed."""
        for end in (lambda: self.source.tree.connection.close(),
                    lambda: on(0, 'pkill', '-9', '-x', 'smbd')):
            token = odx.get(self.source, 0, 4 * MIB, lifetime=6000)[2]
            end()
            lab.put(self.path('from.vhdx'), 0, self.NEW)
            self.is_old(token)
            lab.put(self.path('from.vhdx'), 0, self.OLD)
            self.target.write(0, self.BEFORE)
            if self.source.tree.connection.socket.fileno() == -1:
                self.source = self.open(0, 'from.vhdx')
        on(0, 'smbd', '--daemon')
        self.nothing_is_left()
        self.is_over(token)

    def test_its_node_dies(self):
        """It may die with it; else it is what it was."""
        token = odx.get(self.source, 0, 4 * MIB, lifetime=25000)[2]
        lab.put(self.path('from.vhdx'), 0, self.NEW)
        try:
            cluster('kill-node', '0')
            # CTDB elects and recovers, and smbd waits for that.
            time.sleep(20)
            status, _ = self.target.fsctl(
                OFFLOAD_WRITE, write(0, 4 * MIB, token), 16)
            print('\nafter the death of its node: 0x%x' % status)
            if status == OK:
                self.assertTrue(self.OLD == self.target.read(0, 4 * MIB))
            else:
                self.is_over(token)
            # And others go on.
            self.make('more.vhdx', self.OLD)
            source = self.open(2, 'more.vhdx')
            token = odx.get(source, 0, 4 * MIB, lifetime=2000)[2]
            source.write(0, self.NEW)
            self.is_old(token)
        finally:
            cluster('start-node', '0')
        self.assertTrue(lab.until(lambda: not self.names(), 60), self.names())

    def test_nobody_sees_the_folder(self):
        odx.get(self.source, 0, 4 * MIB)
        (name,) = self.names()
        for path in (FOLDER, FOLDER + '/' + name):
            self.assertEqual((0, 0), (os.stat(path).st_uid,
                                      os.stat(path).st_mode & 0o077))
        tree = self.target.tree
        root = tree.create('', access=smb2.READ_ONLY, options=smb2.DIRECTORY)
        self.assertNotIn('.hvrs-tokens', str(root.list()))
        for path in ('.hvrs-tokens', '.hvrs-tokens/' + name):
            with self.assertRaises(smb2.StatusError):
                tree.create(path, access=smb2.READ_ONLY,
                            disposition=smb2.OPEN)

    def test_a_folder_of_somebody_elses(self):
        token = odx.get(self.source, 0, 4 * MIB)[2]
        os.rename(FOLDER, FOLDER + '-away')
        try:
            os.mkdir(FOLDER, 0o700)
            shutil.chown(FOLDER, 'hvrs', 'hvrs')
            (name,) = set(os.listdir(FOLDER + '-away')) - self.others
            shutil.copy(self.path('to.vhdx'), FOLDER + '/' + name)
            status, _ = self.source.fsctl(OFFLOAD_READ, read(0, MIB), 528)
            self.assertEqual(hex(odx.READ_FILE_NOT_SUPPORTED), hex(status))
            self.is_over(token)
            self.assertEqual([name], os.listdir(FOLDER))
        finally:
            shutil.rmtree(FOLDER)
            os.rename(FOLDER + '-away', FOLDER)
        self.is_old(token)

    def test_they_are_listed_on_every_node(self):
        odx.get(self.source, 0, 4 * MIB, lifetime=5000)
        for node in range(3):
            self.assertIn('coherent: from.vhdx', str(json.loads(
                on(node, 'hvrsctl', 'tokens', '--json'))))
            self.assertIn('held by ' + FOLDER, on(node, 'hvrsctl', 'tokens'))

    def test_the_limits_are_of_all_nodes(self):
        files = [self.open(node, 'from.vhdx', share='few')
                 for node in range(3)]
        tokens = []
        for i in range(7):
            tokens.append(odx.get(files[i % 3], 0, 4 * MIB)[2])
            # The oldest goes by the clock.
            time.sleep(0.01)
        for token in tokens[:4]:
            self.is_over(token)
        for token in tokens[4:]:
            self.is_old(token)

    def test_random_operations(self):
        """Files, tokens and nodes against a model of them."""
        random.seed(int(os.environ.get('HVRS_SEED') or 1))
        size = 256 * KIB
        model = [bytearray(lab.pattern(size, i)) for i in range(3)]
        for i in range(3):
            self.make('model%d' % i, bytes(model[i]))
        files = [[self.open(node, 'model%d' % i) for i in range(3)]
                 for node in range(3)]
        tokens = []
        for step in range(int(os.environ.get('HVRS_LONG') or 0) * 5000 or
                          600):
            node, i = random.randrange(3), random.randrange(3)
            unit = random.choice((512, 4096))
            offset = random.randrange(size // unit) * unit
            length = min(random.choice((1, 7, 8, 64)) * unit, size - offset)
            what = random.random()
            if what < 0.4:
                data = random.randbytes(length)
                if random.random() < 0.2:
                    lab.put(self.path('model%d' % i), offset, data)
                else:
                    files[node][i].write(offset, data)
                model[i][offset:offset + length] = data
            elif what < 0.65 or not tokens:
                moved, _, token = odx.get(files[node][i], offset, length)
                self.assertEqual(length, moved)
                tokens.append((token, bytes(model[i][offset:offset +
                                                     length])))
                del tokens[:-20]
            else:
                token, data = random.choice(tokens)
                length = min(len(data), size - offset)
                odx.put(files[node][i], offset, length, token)
                model[i][offset:offset + length] = data[:length]
            if step % 50 == 49:
                for i in range(3):
                    self.assertTrue(bytes(model[i]) == files[
                        random.randrange(3)][i].read(0, size), step)
        for i in range(3):
            self.assertTrue(bytes(model[i]) == lab.content(
                self.path('model%d' % i)))

    def test_between_shares_and_without_being_told(self):
        """A share whose file system is not said to be coherent has none."""
        token = odx.get(self.source, 0, 4 * MIB)[2]
        target = self.open(2, 'to.vhdx', share='vm')
        status, _ = target.fsctl(OFFLOAD_WRITE, write(0, MIB, token), 16)
        self.assertEqual(hex(smb2.INVALID_DEVICE_REQUEST), hex(status))
        status, _ = target.fsctl(OFFLOAD_READ, read(0, MIB), 528)
        self.assertEqual(hex(smb2.INVALID_DEVICE_REQUEST), hex(status))
