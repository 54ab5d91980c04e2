"""On the clients' machine of "./lab cluster up": what holds on several nodes
works through each of them, and what does not is off and says so."""

import collections
import contextlib
import json
import os
import struct
import subprocess
import tempfile
import threading
import time
import unittest
import uuid

import handles
import lab
import smb2
from nodes import ADDRESS, cluster, log, on
from test_sqos import (CONTROL, COUNT, NULL, SET_FLOW, SET_POLICY, STATUS,
                       request)

REFUSED = ('persistent handles', 'resilient handles', 'offload',
           'shared disks', 'remote vss')
USER = 'hvrs%hvrs'


def smbclient(node, share, commands):
    done = subprocess.run(
        ['smbclient', '-U', USER, '//%s/%s' % (ADDRESS[node], share), '-c',
         commands], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=60)
    if done.returncode != 0:
        raise AssertionError(done.stdout)
    return done.stdout


class Writer(threading.Thread):
    """A client of one node that writes 8 KiB at a time, as fast as it may,
    with so many under way."""

    def __init__(self, node, flow, policy, depth=1):
        super().__init__()
        self.connection = smb2.Connection(445, ADDRESS[node])
        tree = smb2.Tree(smb2.Session(self.connection, 'hvrs', 'hvrs'), 'all')
        self.file = tree.create('writer%d.vhdx' % node)
        status, _ = self.file.fsctl(CONTROL, request(
            SET_FLOW | SET_POLICY, flow, policy, uuid.uuid4(),
            name='VM%d' % node, node='HV'))
        assert status == 0, hex(status)
        self.done = 0
        self.depth = depth
        self.pause = 0.0
        self.stop = False

    def run(self):
        data, asked, flying = bytes(8192), 0, collections.deque()
        while not self.stop:
            while len(flying) < (1 if self.pause else self.depth):
                flying.append(self.file.write_send(asked % 1000 * 8192, data))
                asked += 1
            status = self.connection.wait(flying.popleft()).status
            assert status == 0, hex(status)
            self.done += 1
            if self.pause:
                time.sleep(self.pause)
        self.connection.close()


class DoomedWriter(Writer):
    """One whose node is killed."""

    def run(self):
        self.connection.socket.settimeout(5)
        try:
            super().run()
        except OSError:
            pass


class Qos(unittest.TestCase):

    def policy(self, node, *arguments):
        return uuid.UUID(on(node, 'hvrsctl', 'qos', 'policy', 'add', '--name',
                            'test', *arguments).strip())

    def policies(self, node):
        return {uuid.UUID(one['id']): one for one in json.loads(
            on(node, 'hvrsctl', 'qos', 'policy', 'list', '--json'))}

    def test_policies_are_everywhere(self):
        one = self.policy(0, '--max', '500', '--bandwidth', '4000')
        for node in range(3):
            self.assertEqual(500, self.policies(node)[one]['maximum'])
        on(1, 'hvrsctl', 'qos', 'policy', 'set', str(one), '--max', '600')
        self.assertEqual(600, self.policies(2)[one]['maximum'])
        on(2, 'hvrsctl', 'qos', 'policy', 'remove', str(one))
        for node in range(3):
            self.assertNotIn(one, self.policies(node))
        with self.assertRaisesRegex(AssertionError, 'no such policy'):
            on(0, 'hvrsctl', 'qos', 'policy', 'remove', str(one))

    def test_a_flow_is_everywhere(self):
        policy, flow = self.policy(1, '--max', '700'), uuid.uuid4()
        files = []
        for node in range(3):
            connection = smb2.Connection(445, ADDRESS[node])
            self.addCleanup(connection.close)
            tree = smb2.Tree(smb2.Session(connection, 'hvrs', 'hvrs'), 'all')
            files.append(tree.create('flow%d.vhdx' % node))
        for node, options in ((0, SET_FLOW | SET_POLICY), (1, SET_FLOW),
                              (2, SET_FLOW)):
            status, out = files[node].fsctl(CONTROL, request(
                options | STATUS, flow,
                policy if options & SET_POLICY else NULL, name='VM1'
                if options & SET_POLICY else ''))
            self.assertEqual(0, status)
            self.assertEqual(policy.bytes_le, out[24:40])
            self.assertEqual(700, struct.unpack_from('<Q', out, 64)[0])
            status, _ = files[node].fsctl(CONTROL, request(
                COUNT, counters=(10, 10, 500, 500), kilobytes=80))
            self.assertEqual(0, status)
        for node in range(3):
            (seen,) = [one for one in json.loads(
                on(node, 'hvrsctl', 'qos', 'flows', '--json'))
                if uuid.UUID(one['id']) == flow]
            self.assertEqual((30, 240, 'VM1'), (
                seen['ios'], seen['kilobytes'], seen['initiator']))
        # Its owner's alone, on whatever node.
        connection = smb2.Connection(445, ADDRESS[2])
        self.addCleanup(connection.close)
        tree = smb2.Tree(smb2.Session(connection, 'other', 'other'), 'all')
        status, _ = tree.create('flow2.vhdx', smb2.READ).fsctl(
            CONTROL, request(SET_FLOW, flow))
        self.assertEqual(smb2.ACCESS_DENIED, status)

    @contextlib.contextmanager
    def writing(self, *writers):
        """While they write; at the end all have stopped."""
        try:
            for writer in writers:
                writer.start()
            yield writers
        finally:
            for writer in writers:
                writer.stop = True
            for writer in writers:
                writer.join(20)

    def rates(self, writers, seconds):
        before = [writer.done for writer in writers]
        begun = time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - begun
        return [(writer.done - done) / took
                for writer, done in zip(writers, before)]

    def test_a_limit_holds_on_all_nodes_together(self):
        policy = self.policy(0, '--max', '600', '--aggregated')
        with self.writing(*(Writer(node, uuid.uuid4(), policy)
                            for node in range(3))) as writers:
            time.sleep(6)
            rates = self.rates(writers, 8)
            print('\nthree nodes: %s' % rates)
            self.assertTrue(570 < sum(rates) < 620, rates)
            self.assertGreater(min(rates), 150)
            # Who needs little leaves the rest to the others.
            writers[0].pause = 0.05
            time.sleep(6)
            rates = self.rates(writers, 8)
            print('one of them idle: %s' % rates)
            self.assertTrue(540 < sum(rates) < 620, rates)
            self.assertLess(rates[0], 30)
            # And who is gone all of it.
            writers[0].stop = writers[1].stop = True
            time.sleep(16)
            rates = self.rates(writers[2:], 6)
            print('one left: %s' % rates)
            self.assertTrue(570 < sum(rates) < 620, rates)

    def test_a_node_dies(self):
        policy = self.policy(0, '--max', '600', '--aggregated')
        try:
            with self.writing(
                    Writer(0, uuid.uuid4(), policy),
                    Writer(1, uuid.uuid4(), policy),
                    DoomedWriter(2, uuid.uuid4(), policy)) as writers:
                time.sleep(4)
                cluster('kill-node', '2')
                # CTDB elects and recovers, and smbd waits for that.
                time.sleep(25)
                rates = self.rates(writers[:2], 8)
                print('\ntwo of three nodes: %s' % rates)
                self.assertTrue(570 < sum(rates) < 620, rates)
                self.assertIn(policy, self.policies(1))
                self.assertGreaterEqual(len(json.loads(
                    on(1, 'hvrsctl', 'qos', 'flows', '--json'))), 2)
        finally:
            cluster('start-node', '2')
        self.assertIn(policy, self.policies(2))

    def test_one_flow_on_two_nodes(self):
        flow = uuid.uuid4()
        pair = [Writer(node, flow, NULL) for node in (0, 1)]
        # Before they begin, as they take all answers of their connections.
        status, _ = pair[0].file.fsctl(CONTROL, request(
            SET_POLICY, limit=400, name='VM'))
        self.assertEqual(0, status)
        with self.writing(*pair) as writers:
            time.sleep(6)
            rates = self.rates(writers, 6)
            print('\none flow: %s' % rates)
            self.assertTrue(380 < sum(rates) < 412, rates)

    def each_second(self, writers, seconds, least, most):
        """Each one's rate; that of all together, in most of the seconds, must
        be within these.  (One in which the whole machine stands still says
        nothing of a limit.)"""
        before = [writer.done for writer in writers]
        begun = last = time.monotonic()
        all_before, each = sum(before), []
        while len(each) < seconds:
            time.sleep(1)
            now, done = time.monotonic(), sum(w.done for w in writers)
            each.append((done - all_before) / (now - last))
            all_before, last = done, now
        rates = [(writer.done - done) / (last - begun)
                 for writer, done in zip(writers, before)]
        print('\n%s, each second %s' % (
            rates, ' '.join('%.0f' % rate for rate in each)))
        self.assertTrue(least < sorted(each)[seconds // 2] < most, each)
        self.assertLess(sum(rates), most)
        return rates

    def test_a_node_with_many_under_way_gets_its_part(self):
        policy = self.policy(0, '--max', '300', '--aggregated')
        with self.writing(*(Writer(node, uuid.uuid4(), policy, 8)
                            for node in range(3))) as writers:
            time.sleep(12)
            rates = self.each_second(writers, 8, 285, 310)
            self.assertGreater(min(rates), 75)
            # Who needs little leaves the rest to the others.
            writers[0].pause = 0.05
            time.sleep(6)
            rates = self.each_second(writers, 8, 270, 310)
            self.assertLess(rates[0], 30)


class Cluster(unittest.TestCase):

    def test_a_file_goes_from_node_to_node(self):
        data = os.urandom(300000)
        with tempfile.TemporaryDirectory() as folder:
            with open(folder + '/in', 'wb') as file:
                file.write(data)
            for node in range(3):
                smbclient(node, 'vm', 'put %s/in file%d' % (folder, node))
                smbclient((node + 1) % 3, 'vm', 'get file%d %s/out' %
                          (node, folder))
                with open(folder + '/out', 'rb') as file:
                    self.assertEqual(data, file.read())
                smbclient((node + 2) % 3, 'vm', 'del file%d' % node)

    def test_what_is_not_ready_is_off_with_one_line(self):
        for node in range(3):
            before = len(log(node))
            smbclient(node, 'all', 'ls')
            lines = [line for line in log(node)[before:].split('\n')
                     if 'share all: clustering = yes' in line]
            self.assertEqual(1, len(lines), log(node)[before:])
            for name in REFUSED:
                self.assertIn(name, lines[0])
            self.assertNotIn('trim', lines[0])
            self.assertNotIn('qos', lines[0])

    @unittest.skipIf(lab.SERIES >= (4, 22), 'it has them')
    def test_no_handles_on_a_cluster_of_4_17(self):
        """Asked for or not; and the log says so."""
        for node in range(3):
            before = len(log(node))
            connection = smb2.Connection(445, ADDRESS[node])
            self.addCleanup(connection.close)
            tree = smb2.Tree(smb2.Session(connection, 'hvrs', 'hvrs'),
                             'coherent')
            self.assertEqual(0, tree.capabilities & 0x10)
            file = tree.create('none%d' % node, contexts=[
                handles.dh2q(uuid.uuid4().bytes)])
            self.assertIn(handles.granted(file), (None, (60000, 0)))
            file.close()
            self.assertRegex(log(node)[before:], 'share coherent: clustering '
                             '= yes: off.* newer Samba.*: persistent handles, '
                             'resilient handles\n')
