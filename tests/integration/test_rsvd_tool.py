"""hvrsctl disks: who has which disk open, keys, reservation, counters."""

import json
import os
import signal
import struct
import subprocess
import time
import unittest

import lab
import rsvd
from rsvd import IGNORE, RESERVE, WE_RO


class Tool(rsvd.Case):

    def hvrsctl(self, *arguments):
        """hvrsctl, with a testparm that knows this server's smb.conf."""
        folder = self.server.directory + '/bin'
        if not os.path.isdir(folder):
            os.mkdir(folder)
            with open(folder + '/testparm', 'w') as out:
                out.write('#!/bin/sh\nexec /usr/bin/testparm "$@" %s\n' %
                          self.server.config)
            os.chmod(folder + '/testparm', 0o755)
        return subprocess.run(
            ['hvrsctl', 'disks'] + list(arguments), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=dict(os.environ, PATH=folder + ':' + os.environ['PATH']))

    def told(self):
        done = self.hvrsctl('--json')
        self.assertEqual(('', 0), (done.stderr, done.returncode))
        return json.loads(done.stdout)

    def test_disks(self):
        self.assertEqual([], self.told())
        disk, other = self.disk(), self.other(initiator=None)
        self.good(disk.pr_out(IGNORE, 0, 0, 0xABC, aptpl=1))
        self.good(disk.pr_out(RESERVE, WE_RO, 0xABC))
        for i in range(3):
            self.expect(0, disk.write_status(i * 4096, bytes(4096)))
        self.expect(0, disk.read_status(0, 8192)[0])
        (one,) = self.told()
        self.assertEqual(
            ('/srv/xfs/vm/t/disk.vhdx', 64 * lab.MIB,
             'write exclusive, registrants only', 1, True),
            (one['path'], one['size'], one['reservation'],
             one['generation'], one['kept over power loss']))
        self.assertEqual(
            [{'initiator': str(disk.initiator), 'key': '0x0000000000000abc',
              'holds': True, 'attentions': 0}], one['registrations'])
        first, second = one['opens']
        self.assertEqual(
            ('Client01', str(disk.initiator), 'open', 3, 3 * 4096, 1, 8192,
             rsvd.server_process(self.server, disk)),
            (first['host'], first['initiator'], first['state'],
             first['writes'], first['written bytes'], first['reads'],
             first['read bytes'], first['process']))
        self.assertIsNone(second['initiator'])
        text = self.hvrsctl().stdout
        for word in ('/srv/xfs/vm/t/disk.vhdx', str(disk.initiator),
                     '0x0000000000000abc', 'holds the reservation'):
            self.assertIn(word, text)
        disk.close()
        other.close()
        self.assertEqual([], self.told())

    def test_tracking(self):
        rsvd.make_set(self.path('set.vhds'))
        disk = self.disk('t/set.vhds', version=2)
        self.assertIsNone(self.told()[0]['tracking'])
        disk.snapshot()
        self.assertEqual({'state': 'on', 'started': False, 'marks': 1},
                         self.told()[0]['tracking'])
        self.assertIn('changes: on, 1 marks', self.hvrsctl().stdout)

    def test_snapshots_and_operations(self):
        rsvd.make_set(self.path('set.vhds'))
        disk = self.disk('t/set.vhds', version=2)
        self.assertEqual({'count': 0, 'reference points': 0},
                         self.told()[0]['snapshots'])
        self.assertEqual([], self.told()[0]['operations'])
        first, second = disk.snapshot(), disk.snapshot()
        self.expect(0, disk.delete(first, persist=1))
        self.assertEqual({'count': 1, 'reference points': 1},
                         self.told()[0]['snapshots'])
        for i in range(12):
            self.expect(0, disk.write_status(i * lab.MIB,
                                             lab.pattern(lab.MIB, i)))
        third = disk.snapshot()
        self.expect(0, disk.delete(second))
        self.expect(0, disk.meta(rsvd.OPTIMIZE, bytes(4)))
        # Stopped in the middle of one, it can be seen at leisure.
        self.server.die_at('stop-extract-noted')
        sent = disk.meta_send(rsvd.EXTRACT, struct.pack('<III', rsvd.VM, 0, 0)
                              + third.bytes_le + bytes(16) +
                              rsvd.name_data('x.vhdx'))
        for _ in range(500):
            if self.server.has_died('stop-extract-noted'):
                break
            time.sleep(0.01)
        (one,) = self.told()[0]['operations']
        self.assertEqual('extract', one['operation'])
        self.assertLess(one['done'], one['of'])
        self.assertIn('extract: ', self.hvrsctl().stdout)
        os.kill(rsvd.server_process(self.server, disk), signal.SIGCONT)
        self.assertEqual((0, 0), disk.tunnel_end(sent)[:2])
        self.assertEqual([], self.told()[0]['operations'])
        plain = self.disk()
        self.assertIn(None, [one['snapshots'] for one in self.told()])
        plain.close()

    def test_a_killed_smbd(self):
        disk, other = self.other(), self.disk()
        os.kill(rsvd.server_process(self.server, disk), 9)
        for _ in range(100):
            states = sorted(one['state'] for one in self.told()[0]['opens'])
            if states == ['gone', 'open']:
                return
        self.fail(states)

    def test_arguments(self):
        self.assertEqual(2, self.hvrsctl('more').returncode)


if __name__ == '__main__':
    unittest.main()
