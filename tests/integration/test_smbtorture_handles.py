"""smbtorture on what handles, leases, locks and sessions are to a client: hvrs
takes nothing away, and the persistent tests pass.

smb2.replay and smb2.lease wait for minutes; they are cut off after 170 s, and
run to their end with HVRS_LONG."""

import os
import subprocess
import unittest

import lab

COMPARE = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                       '../smbtorture-compare')
LONG = bool(os.environ.get('HVRS_LONG'))
SUITES = ['smb2.durable-open', 'smb2.durable-v2-open',
          'smb2.durable-v2-delay', 'smb2.durable-v2-regressions',
          'smb2.replay', 'smb2.lease', 'smb2.lock', 'smb2.session',
          'smb2.multichannel', 'smb2.oplock']
# Both persistent tests, and the one of replay that wants such a share.
REQUIRED = ['smb2.durable-v2-open.persistent-open-oplock',
            'smb2.durable-v2-open.persistent-open-lease',
            'smb2.replay.replay5']


class Smbtorture(unittest.TestCase):
    def test_nothing_is_lost_where_handles_are_kept(self):
        # A file system each: they share no file numbers.
        disks = [lab.LoopDisk('xfs') for _ in range(2)]
        for disk in disks:
            self.addCleanup(disk.remove)
        lines = ['posix locking = no', 'kernel oplocks = no',
                 'kernel share modes = no', 'durable handles = yes']
        server = lab.Server(
            {'plain': (disks[0].share, lines),
             'vm': (disks[1].share, ['vfs objects = hvrs'])},
            ['smbd:FSCTL_SMBTORTURE = yes',
             'server multi channel support = yes'])
        self.addCleanup(server.stop)
        demands = []
        for name in REQUIRED:
            demands += ['--require', 'vm:' + name]
        done = subprocess.run(
            [COMPARE, '-p', str(server.port), '-U', 'hvrs%hvrs',
             '--limit', '520' if LONG else '170', '--spread', '--jobs', '20'] + demands +
            ['//127.0.0.1/plain', 'vm', '--'] + SUITES,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            timeout=560)
        if LONG:
            print(done.stderr, done.stdout, flush=True)
        self.assertEqual(0, done.returncode, done.stdout)
        server.alive()


if __name__ == '__main__':
    unittest.main()
